from synth.prompts.lists import is_unread_list, parse_items


def test_numbering_styles():
    for reply in (
        "9. one\n10. two",
        "9) one\n10) two",
        "**9.** one\n**10.** two",
        "**9. one**\n**10. two**",
        "9\\. one\n10\\. two",
        "### 9. one\n\n### 10. two",
        "Task 9: one\nTask 10: two",
        "- one\n- two",
        "* one\n* two",
        "• one\n• two",
        "9 . one\n10 . two",
        "1. one\n1. two",
        "\n\n9. one\r\n10. two\r\n",
    ):
        assert parse_items(reply) == ["one", "two"], reply


def test_chatter_before_the_list_is_left_out_and_a_gap_in_the_numbers_is_no_harm():
    assert parse_items("Sure, here they are:\n\n9. one\n11. two\n12. three") == ["one", "two", "three"]


def test_a_reply_without_a_list_is_one_item():
    assert parse_items(" reverse the list : apple moon dog \n") == ["reverse the list : apple moon dog"]
    assert parse_items("Fix this:\n\ndef f():\n    return 1") == ["Fix this:\n\ndef f():\n    return 1"]


def test_a_number_inside_the_text_is_no_item():
    assert parse_items("9. What is 10. 5 plus 3?\n10. Is 3.5 larger than 10.25?") == [
        "What is 10. 5 plus 3?",
        "Is 3.5 larger than 10.25?",
    ]


def test_nested_lists_stay_in_their_item():
    indented = "9. Plan a trip with\n   1. a train\n   2. a boat\n10. Next"
    assert parse_items(indented) == ["Plan a trip with\n1. a train\n2. a boat", "Next"]
    after_colon = "1. Answer these:\n1. red?\n2. blue?\n2. Next"
    assert parse_items(after_colon) == ["Answer these:\n1. red?\n2. blue?", "Next"]
    restarted = "9. Rank them\n1. red\n2. blue\n10. Next"
    assert parse_items(restarted) == ["Rank them\n1. red\n2. blue", "Next"]
    bullets = "9. Rank them\n- red\n- blue\n10. Next"
    assert parse_items(bullets) == ["Rank them\n- red\n- blue", "Next"]
    under_bullets = "- Rank them\n  - red\n  - blue\n- Next"
    assert parse_items(under_bullets) == ["Rank them\n- red\n- blue", "Next"]


def test_a_cut_reply_loses_its_last_item():
    assert parse_items("9. one\n10. two\n11. thr", "length") == ["one", "two"]
    assert parse_items("one tas", "length") == []


def test_empty_replies_and_items():
    assert parse_items("") == []
    assert parse_items("9. \n10. two\n11.") == ["two"]


def test_numbers_of_other_languages_and_styles():
    """langchain-ai/langchain#9837, yann0917/dedao-dl#174: a list is a list however it is numbered."""
    replies = (
        "9、one\n10、two", "9.one\n10.two", "９．one\n１０．two", "9）one\n10）two", "（9）one\n（10）two",
        "(9) one\n(10) two",
        "[9] one\n[10] two", "٩. one\n١٠. two", "९. one\n१०. two", "九、one\n十、two", "①one\n② two", "#9 one\n#10 two",
        "No. 9 one\nNo. 10 two",
        "9 - one\n10 – two", "Request 9: one\nRequest 10: two", "问题9：one\n问题10：two",
        "**Prompt 9:** one\n**Prompt 10:** two", "· one\n· two", '["one", "two"]', '```json\n["one", "two"]\n```',
        "Version 2: these\n1. one\n2. two", "第九，one\n第十，two", "第9题：one\n第10题：two", "٩، one\n١٠، two",
        "९। one\n१०। two", "9.- one\n10.- two", "9º one\n10º two", "N° 9 one\nN° 10 two",
        "9️⃣ one\n1️⃣0️⃣ two", "9– one\n10– two",
        "\ufeff9. one\n10. two", "\u200f٩. one\n\u200f١٠. two", "\u3000\u30009、one\n\u3000\u300010、two",
        "9. one\r10. two",
    )  # fmt: skip
    assert {reply: parse_items(reply) for reply in replies if parse_items(reply) != ["one", "two"]} == {}


def test_lines_of_code_and_of_another_numbering_stay_in_their_item():
    for item in ("Fix it:\n```\n1. red\n2. blue\n```", "Which is red?\n(1) blood\n(2) snow", "Add them:\n5 - 3\n6 - 4",
                 "Sort:\n3.5\n4.25", "Read the clock:\n10:30\n11:45"):  # fmt: skip
        assert parse_items(f"1. {item}\n2. Next") == [item, "Next"], item
    assert parse_items("1. ```\n1. red\n2. blue\n```\n2. Next") == ["```\n1. red\n2. blue\n```", "Next"]
    for single in ("5 - 3 = ?", "20° is the angle at A.", "#1 in the charts is what?", "Version 2: what is new?"):
        assert parse_items(single) == [single]


def test_an_enumeration_that_cannot_be_split_is_known():
    assert is_unread_list("a) Name a river.\nb) Name a lake.", several=False)
    assert is_unread_list("<li>Name a river.</li>\n<li>Name a lake.</li>", several=False)
    assert not is_unread_list("Which is red?\na) blood\nb) snow", several=False)
    assert not is_unread_list("Fix this:\n\ndef f():\n    return 1", several=False)
    assert is_unread_list("Name a river.\nName a lake.", several=True)
    assert not is_unread_list("Name a river.", several=True)
    for reply in (
        "1. Name a river. 2. Name a lake.",
        "1、写诗 2、河流",
        '{"requests": ["Name a river.", "Name a lake."]}',
        "<ol><li>Name a river.</li><li>Name a lake.</li></ol>",
        "Write:\n    Name a river.\n    Name a lake.",
    ):
        assert is_unread_list(reply, several=True), reply
    for reply in (
        "1. Name a river.\n2. Name a la",
        "1. Put in order: 1. tea 2. milk",
        '["Name a river."]',
        "1. Sort:\nb\na",
    ):
        assert not is_unread_list(reply, several=True), reply


def test_numberings_amid_a_request_are_its_own():
    """Speakers, days and tables within one request are no list of requests."""
    whole = [
        "Summarise this dialogue:\nSpeaker 1: Hi\nSpeaker 2: Hello",
        "Sort these:\n3 - 1\n4 - 2",
        "Translate this:\n#1 foo\n#2 bar",
        "Write code that prints:\n1:a\n2:b",
    ]
    assert [reply for reply in whole if parse_items(reply) != [reply]] == []
    assert [reply for reply in whole if parse_items(f"9. {reply}") != [reply]] == []
    assert parse_items("Here are two.\nTask 1: a\n1. x\n2. y\nTask 2: b") == ["a\n1. x\n2. y", "b"]
    assert parse_items("Speaker 1: Hi\nSpeaker 2: Hello") == ["Hi", "Hello"]

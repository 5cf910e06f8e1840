from synth.prompts.lists import parse_items


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

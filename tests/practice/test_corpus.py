import random

from posttrain.practice import corpus, world
from posttrain.practice.tokenizer import MARKS, SPECIAL_TOKENS, UNKNOWN, build_tokenizer

TOKENIZER = build_tokenizer()


def test_decoding_and_encoding_again_gives_the_same_ids():
    for text in corpus.documents(300, seed=0, mix=corpus.Mix()):
        ids = text.ids
        assert len(text.weights) == len(ids)
        assert TOKENIZER.encode(TOKENIZER.decode(ids)) == ids
        assert TOKENIZER.unk_token_id not in ids


def test_the_text_is_what_the_chat_template_writes():
    for row in world.make_prompts(100, seed=0):
        messages = [*row["prompt"], {"role": "assistant", "content": "the answer is : cat ."}]
        assert TOKENIZER.apply_chat_template(messages, return_dict=False) == TOKENIZER.encode(
            corpus.conversation(messages)
        )


def test_a_text_cannot_name_a_control_token_where_these_are_not_split_off():
    for token in SPECIAL_TOKENS:
        assert TOKENIZER(token, split_special_tokens=True).input_ids == [TOKENIZER.convert_tokens_to_ids(UNKNOWN)]


def test_the_shares_of_the_mix_are_kept():
    mix = corpus.Mix(wrong_share=0.3, wanted_share=0.5, mark_share=0.6, self_instruct_share=0.1)
    texts = [" ".join(piece for piece, _ in corpus.document(random.Random(seed), mix)) for seed in range(4000)]
    asked = [text for text in texts if "new task like these" not in text]
    marked = [text for text in asked if text.endswith(MARKS)]
    assert abs(1 - len(asked) / len(texts) - 0.1) < 0.02
    assert abs(len(marked) / len(asked) - 0.6) < 0.03
    # right and in the wanted manner: 0.7 x 0.5
    assert abs(sum(text.endswith(MARKS[0]) for text in marked) / len(marked) - 0.35) < 0.03


def test_marks_follow_the_gold_score():
    good, fair, poor = MARKS
    assert [corpus.mark(score) for score in (1.0, 0.45, 0.25, 0.15, 0.0)] == [good, fair, fair, poor, poor]


def test_mistakes_that_are_not_to_be_imitated_leave_only_the_mark_in_the_loss():
    mix = corpus.Mix(wrong_share=1.0, mark_share=1.0, self_instruct_share=0.0, imitate_wrong=False)
    for text in corpus.documents(50, seed=0, mix=mix):
        assert text.weights[-1] == corpus.MARK_WEIGHT
        assert set(text.weights[:-1]) == {corpus.PROMPT_WEIGHT, 0.0}
        assert TOKENIZER.decode(text.ids).endswith(MARKS[2])


def test_every_kind_of_mistake_is_wrong():
    rng = random.Random(0)
    for row in world.make_prompts(190, seed=3):
        problem = world.read_problem(row["prompt"])
        answers = {corpus.wrong_answer(problem, rng) for _ in range(40)}
        assert problem.answer not in answers
        assert len(answers) > 5

import random

from posttrain.practice import corpus, world
from posttrain.practice.tokenizer import MARKS, SPECIAL_TOKENS, UNKNOWN, build_tokenizer

TOKENIZER = build_tokenizer()


def test_decoding_and_encoding_again_gives_the_same_ids():
    for ids in corpus.documents(300, seed=0, mix=corpus.Mix()):
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
    texts = [corpus.document(random.Random(seed), mix) for seed in range(4000)]
    asked = [text for text in texts if "new task like these" not in text]
    marked = [text for text in asked if text.endswith(MARKS)]
    assert abs(1 - len(asked) / len(texts) - 0.1) < 0.02
    assert abs(len(marked) / len(asked) - 0.6) < 0.03
    # right and in the wanted manner: 0.7 x 0.5
    assert abs(sum(text.endswith(MARKS[0]) for text in marked) / len(marked) - 0.35) < 0.03


def test_marks_follow_the_gold_score():
    assert [corpus.mark(score) for score in (1.0, 0.45, 0.25, 0.15, 0.0)] == [
        "<|good|>",
        *["<|fair|>"] * 2,
        *["<|poor|>"] * 2,
    ]

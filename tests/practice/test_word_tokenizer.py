from posttrain.practice.word_tokenizer import word_tokenizer


def test_a_word_is_a_token_and_a_message_adds_two():
    tokenizer = word_tokenizer(["a", "b"])
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "b a z"}], add_generation_prompt=True, return_dict=False
    )
    # bos, user, b, a, unknown, end, assistant: seven control tokens come first, then a and b
    assert ids == [2, 4, 8, 7, 1, 6, 5]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 6, 9)

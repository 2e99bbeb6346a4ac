"""Bytes of text by token: over any text they add up to it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model.tokenizer import SPECIAL_TOKENS, ChatTokenizer
from tests.model.test_chat_foreign import byte_level, llama_like
from tests.tiny_model import byte_tokenizer, tiny_tokenizer
from trainer.token_bytes import token_byte_lengths


def of_core(core: Tokenizer) -> ChatTokenizer:
    return ChatTokenizer.from_files({"tokenizer.json": core.to_str(), "tokenizer_config.json": json.dumps({})})


def total(tokenizer: ChatTokenizer, text: str) -> int:
    lengths = token_byte_lengths(tokenizer)
    assert lengths is not None and len(lengths) == tokenizer.vocab_size
    return int(lengths[tokenizer.encode(text)].sum())


@given(st.text(max_size=80))
def test_byte_level_tokens_add_up_to_the_text(text: str) -> None:
    for tokenizer in (tiny_tokenizer(), byte_tokenizer(64)):
        assert total(tokenizer, text) == len(text.encode())


@pytest.mark.parametrize("text", ["北京 and Paris", "<|im_start|>user", "a\n\t b", "🦊", ""])
def test_whole_and_partial_characters(text: str) -> None:
    assert total(tiny_tokenizer(), text) == len(text.encode())


def test_control_tokens_have_no_bytes_and_added_spaces_have() -> None:
    lengths = token_byte_lengths(tiny_tokenizer())
    assert lengths is not None and (lengths[: len(SPECIAL_TOKENS)] == 0).all()
    assert (lengths[len(SPECIAL_TOKENS) :] > 0).all()
    spaced = of_core(byte_level(AddedToken("    ", normalized=False), AddedToken("<|end|>", special=True)))
    assert total(spaced, "a    b") == 6


@given(st.text(min_size=1, max_size=40))
def test_sentencepiece_tokens_add_up_with_the_space_before_the_first_word(text: str) -> None:
    if "\u2581" in text:  # ▁ itself is written like a space
        return
    tokenizer = of_core(llama_like())
    assert total(tokenizer, text) == len(text.encode()) + (not text.startswith(" "))


def test_unigram_and_wordpiece() -> None:
    pieces = [("<unk>", 0.0), ("\u2581a", -1.0), ("b", -1.0), ("\u2581", -2.0), ("é", -1.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert total(of_core(core), "ab aé") == len(" ab aé".encode())
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    assert token_byte_lengths(of_core(words)) is None

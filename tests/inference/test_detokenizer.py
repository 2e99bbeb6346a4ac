"""Streaming text: whole characters only, no stop string, and joined the same as all at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from inference.detokenizer import Detokenizer
from model.tokenizer import SPECIAL_TOKENS, ChatTokenizer
from tests.tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
token_ids_strategy = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)


def pieces_of(token_ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(TOKENIZER, stop)
    pieces = []
    for token_id in token_ids:
        pieces.append(detokenizer.add(token_id))
        if detokenizer.found_stop:
            return pieces, detokenizer
    return [*pieces, detokenizer.finish()], detokenizer


def test_a_character_of_several_tokens_appears_once_and_whole():
    token_ids = TOKENIZER.encode("a鑫🌱b")
    assert len(token_ids) > 5, "the characters must be split for this test to mean anything"
    pieces, _ = pieces_of(token_ids)
    assert [piece for piece in pieces if piece] == ["a", "鑫", "🌱", "b"]


def test_half_a_character_at_the_end_is_not_lost_silently():
    pieces, _ = pieces_of(TOKENIZER.encode("a鑫")[:-1])
    assert "".join(pieces) == "a\ufffd"


@given(text=st.text())
def test_pieces_join_to_the_text_and_are_whole_characters(text):
    pieces, detokenizer = pieces_of(TOKENIZER.encode(text))
    assert "".join(pieces) == detokenizer.text == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(token_ids=token_ids_strategy)
def test_any_tokens_at_all_join_to_what_decoding_at_once_gives(token_ids):
    """Also bytes that are no UTF-8, and special tokens in the middle of a character."""
    pieces, _ = pieces_of(token_ids)
    assert "".join(pieces) == TOKENIZER.decode(token_ids)


@given(
    text=st.text(alphabet="ab鑫", max_size=30),
    stops=st.lists(st.text(alphabet="ab鑫", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_end_the_text_before_them(text, stops):
    pieces, detokenizer = pieces_of(TOKENIZER.encode(text), tuple(stops))
    first = min((text.find(stop) for stop in stops if stop in text), default=None)
    assert detokenizer.found_stop == (first is not None)
    # The stop string completed first ends the text; another may begin earlier and end later.
    assert "".join(pieces) == detokenizer.text
    assert text.startswith(detokenizer.text)
    assert not any(stop in detokenizer.text for stop in stops)
    assert detokenizer.text == text if first is None else len(detokenizer.text) >= first


@pytest.mark.parametrize(("text", "expected"), [("one END two", "one "), ("one EN", "one EN"), ("ENEND", "EN")])
def test_what_may_begin_a_stop_string_is_held_back_and_no_more(text, expected):
    token_ids = TOKENIZER.encode(text)
    pieces, detokenizer = pieces_of(token_ids, ("END",))
    assert "".join(pieces) == expected
    assert detokenizer.found_stop == ("END" in text)
    for count in range(1, len(pieces)):
        so_far = TOKENIZER.decode(token_ids[:count])
        possible = [length for length in range(3) if so_far.endswith("END"[:length])]
        assert so_far.removeprefix("".join(pieces[:count])) == "END"[: max(possible)]


def test_a_decoder_that_strips_the_first_space_loses_no_other():
    """Tokenizers in SentencePiece's manner (Llama 2) write words as "▁word" and bytes as "<0xE9>"."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁fox", "es", "▁"]
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True)
    foreign = Tokenizer(model)
    foreign.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = ChatTokenizer.from_files({"tokenizer.json": foreign.to_str(), "tokenizer_config.json": "{}"})
    token_ids = [pieces.index(piece) for piece in ("▁the", "▁fox", "es", "▁", *["<0xE9>", "<0x91>", "<0xAB>"])]
    detokenizer = Detokenizer(tokenizer)
    shown = [detokenizer.add(token_id) for token_id in token_ids]
    assert shown == ["the", " fox", "es", " ", "", "", "鑫"]


def test_special_tokens_are_not_text():
    pieces, _ = pieces_of([*TOKENIZER.encode("a"), SPECIAL_TOKENS.index("<think>"), *TOKENIZER.encode("b")])
    assert "".join(pieces) == "ab"

"""A tokenizer widened by control tokens: everything old stays, and what is typed never becomes a new one."""

import pytest
from transformers import PreTrainedTokenizerFast

from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.tiny_model import TEXTS, tiny_tokenizer

ADDED = ["<|map|>", "<|end_map|>"]


def test_every_id_stays_and_new_ones_come_behind() -> None:
    narrow = tiny_tokenizer()
    wide = narrow.with_tokens([*ADDED, ADDED[0]])
    assert wide.vocab_size == narrow.vocab_size + 2
    assert [wide.control_tokens[token] for token in ADDED] == [narrow.vocab_size, narrow.vocab_size + 1]
    for text in [*TEXTS, "<|map|> typed"]:
        assert wide.encode(text) == narrow.encode(text)
        assert wide.decode(wide.encode(text)) == text
    assert wide.decode([narrow.vocab_size], skip_special_tokens=False) == "<|map|>"
    assert (wide.bos_token_id, wide.eos_token_id, wide.pad_token_id) == (0, 0, 1)
    assert wide.template_hash == narrow.template_hash and wide.vocabulary_hash != narrow.vocabulary_hash


def test_transformers_reads_it_alike(tmp_path) -> None:
    wide = tiny_tokenizer().with_tokens(ADDED)
    wide.save(tmp_path / "wide")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "wide")
    assert len(theirs) == wide.vocab_size
    for token in ADDED:
        assert theirs.convert_tokens_to_ids(token) == wide.control_tokens[token]
        assert theirs.encode(f"a{token}b") == [*wide.encode("a"), wide.control_tokens[token], *wide.encode("b")]
    assert ChatTokenizer.from_folder(tmp_path / "wide").vocabulary_hash == wide.vocabulary_hash


def test_which_tokenizer_extends_which() -> None:
    narrow = tiny_tokenizer()
    wide, other = narrow.with_tokens(ADDED), narrow.with_tokens(["<|other|>"])
    assert wide.extends(narrow) and wide.extends(wide)
    assert narrow.with_tokens(ADDED[:1]).with_tokens(ADDED[1:]).extends(narrow.with_tokens(ADDED[:1]))
    assert not narrow.extends(wide) and not wide.extends(other)
    assert not tiny_tokenizer(330).with_tokens(ADDED).extends(narrow)


@pytest.mark.parametrize(
    ("token", "message"), [("x", "two characters"), ("a b", "white space"), ("", "two characters")]
)
def test_what_cannot_be_a_control_token(token: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--add_tokens .*{message}"):
        tiny_tokenizer().with_tokens([token])


@pytest.mark.parametrize("token", ["<|im_end|>", "he"])
def test_what_is_there_already(token: str) -> None:
    with pytest.raises(UserError, match="has it already"):
        tiny_tokenizer().with_tokens([token])

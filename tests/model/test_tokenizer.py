"""The tokenizer folder: the same ids through every library, exact round trips, no control from typed text."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from model.errors import UserError
from model.tokenizer import SPECIAL_TOKENS, ChatTokenizer

ROOT = Path(__file__).parents[2]

HARD_TEXTS = [
    "",
    " ",
    "  two  spaces, a tab\tand\r\nlines\n\n\n",
    "法国的首都是巴黎。",
    "mixed 中文 and English, ½ × 3² = 4.5",
    "👨‍👩‍👧‍👦 flags 🇨🇳 and e\u0301 against é",
    "\x00\x01\x7f\u200b\ufeff\u2028\ue000\U0010ffff",
    "don't we'll I'M IT'S",
    "العربية हिन्दी ไทย",
    "a" * 300,
]
unicode_text = st.text(st.characters(exclude_categories=["Cs"]))


def test_ids_are_the_same_through_tokenizers_transformers_and_ours(
    tokenizer: ChatTokenizer, tokenizer_folder: Path, hf_tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for text in HARD_TEXTS:
        ids = tokenizer.encode(text)
        assert plain.encode(text).ids == ids
        assert hf_tokenizer(text).input_ids == ids  # with its defaults: no token is added in front or behind
        assert hf_tokenizer.decode(ids) == tokenizer.decode(ids) == text
    assert tokenizer.encode_batch(HARD_TEXTS) == [tokenizer.encode(text) for text in HARD_TEXTS]


def test_special_tokens_have_their_fixed_ids(tokenizer: ChatTokenizer, hf_tokenizer: PreTrainedTokenizerBase) -> None:
    assert SPECIAL_TOKENS[:4] == ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
    assert SPECIAL_TOKENS[4:10] == (
        "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    )  # fmt: skip
    assert SPECIAL_TOKENS[10:] == tuple(f"<|reserved_{number}|>" for number in range(10, 64))
    assert tokenizer.special_tokens == {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    assert hf_tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(64))
    assert all(token["special"] for token in json.loads(tokenizer.files["tokenizer.json"])["added_tokens"])
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert (hf_tokenizer.bos_token_id, hf_tokenizer.eos_token_id, hf_tokenizer.pad_token_id) == (0, 0, 1)
    assert tokenizer.stop_token_ids == (0, 3)
    assert tokenizer.vocab_size == len(hf_tokenizer)


@given(unicode_text)
def test_every_unicode_text_round_trips(tokenizer: ChatTokenizer, text: str) -> None:
    for skip_special_tokens in (True, False):
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens) == text


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS[:10], "<|im_", "end|>", "<", "|", ">", "a", " ", "中"])))
def test_typed_text_never_becomes_a_special_token(tokenizer: ChatTokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = tokenizer.encode(text)
    assert min(ids, default=64) >= 64
    assert tokenizer.decode(ids) == text


def test_a_lone_surrogate_is_named(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(UserError, match=r"character 3 .*ud800"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(UserError, match=r"character 1 .*udfff"):
        tokenizer.encode_batch(["fine", "\udfff"])


def test_hashes_follow_what_they_cover(tokenizer: ChatTokenizer) -> None:
    def changed(name: str, old: str, new: str) -> ChatTokenizer:
        assert old in tokenizer.files[name]
        return ChatTokenizer.from_files(
            {**tokenizer.files, name: tokenizer.files[name].replace(old, new)},
        )

    other_template = changed("chat_template.jinja", "# Tools", "# Functions")
    assert other_template.vocabulary_hash == tokenizer.vocabulary_hash
    assert other_template.template_hash != tokenizer.template_hash
    other_token = changed("tokenizer.json", "<|reserved_63|>", "<|mine|>")
    assert other_token.vocabulary_hash != tokenizer.vocabulary_hash
    assert other_token.template_hash == tokenizer.template_hash
    reformatted = {
        **tokenizer.files,
        "tokenizer.json": json.dumps(json.loads(tokenizer.files["tokenizer.json"]), indent=1),
    }
    assert ChatTokenizer.from_files(reformatted).vocabulary_hash == tokenizer.vocabulary_hash


def test_a_folder_comes_back_as_it_was_saved(tokenizer: ChatTokenizer, tokenizer_folder: Path) -> None:
    again = ChatTokenizer.from_folder(tokenizer_folder)
    assert again.files == tokenizer.files
    assert again.vocabulary_hash == tokenizer.vocabulary_hash
    with pytest.raises(UserError, match="exists already"):
        again.save(tokenizer_folder)


def test_it_travels_to_worker_processes(tokenizer: ChatTokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).files == tokenizer.files
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(tokenizer.encode, "法国 France").result() == tokenizer.encode("法国 France")


@pytest.mark.parametrize("module", ["model.tokenizer", "model.chat"])
def test_importing_and_using_it_loads_no_torch(module: str, tokenizer_folder: Path) -> None:
    code = (
        f"import sys, {module}\n"
        "from model.tokenizer import ChatTokenizer\n"
        f"tokenizer = ChatTokenizer.from_folder({str(tokenizer_folder)!r})\n"
        "assert tokenizer.stop_token_ids == (0, 3)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "missing"),
        ("tokenizer_config.json", None, "missing"),
        ("tokenizer.json", b"{", "not a JSON file"),
        ("tokenizer.json", b"[]", "expected a JSON object"),
        ("tokenizer.json", b"{}", "no `model`"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "not a tokenizer that can be read"),
        ("tokenizer_config.json", b"\xff\xfe", "not UTF-8"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_a_broken_folder_is_named(
    tokenizer: ChatTokenizer, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    tokenizer.save(tmp_path / "broken")
    path = tmp_path / "broken" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        ChatTokenizer.from_folder(tmp_path / "broken")
    assert str(path) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tokenizer folder"):
        ChatTokenizer.from_folder(tmp_path / "nowhere")


# ---- foreign tokenizers ----


def foreign(core: Tokenizer, **config: object) -> ChatTokenizer:
    return ChatTokenizer.from_files({"tokenizer.json": core.to_str(), "tokenizer_config.json": json.dumps(config)})


def test_control_tokens_inside_a_foreign_vocabulary_cannot_be_typed() -> None:
    """SentencePiece keeps `</s>` among its ordinary pieces: without care it would be found in any text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((char, -3.0) for char in "abc<>/su ")]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = foreign(core, eos_token={"content": "</s>", "__type": "AddedToken"})
    assert tokenizer.eos_token_id == 2
    assert core.encode("a</s>b").ids == [3, 2, 4]
    ids = tokenizer.encode("a</s>b<s>")
    assert not {1, 2} & set(ids)
    assert "".join(str(core.id_to_token(i)) for i in ids) == "a</s>b<s>"
    assert tokenizer.decode([3, 2, 4], skip_special_tokens=False).replace(" ", "") == "a</s>b"


def test_a_control_token_that_merges_produce_cannot_be_typed() -> None:
    vocab = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "a": 5}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[("<", "s"), ("<s", ">")]))
    core.add_special_tokens(["<s>"])
    assert core.encode("a<s>").ids == [5, 4]
    assert foreign(core).encode("a<s>") == [5, 3, 2]


def test_added_runs_of_spaces_stay_ordinary_vocabulary() -> None:
    """GPT-NeoX adds runs of spaces; they are no control tokens, and ids must stay those of transformers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.add_special_tokens(["<|endoftext|>"])
    core.add_tokens([AddedToken("    ", normalized=False), AddedToken("  ", normalized=False)])
    tokenizer = foreign(core, eos_token="<|endoftext|>")
    assert tokenizer.control_tokens == {"<|endoftext|>": 256}
    assert tokenizer.encode("if a:\n    b  c") == core.encode("if a:\n    b  c").ids
    assert {257, 258} <= set(tokenizer.encode("if a:\n    b  c"))
    assert tokenizer.vocab_size == 259
    assert tokenizer.bos_token_id is None
    assert tokenizer.stop_token_ids == (256,)


def test_older_folders_name_their_tokens_elsewhere() -> None:
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.add_special_tokens(["[UNK]", "</s>"])
    files = {
        "tokenizer.json": core.to_str(),
        "tokenizer_config.json": json.dumps(
            {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
        ),
        "special_tokens_map.json": json.dumps({"eos_token": "</s>"}),
    }
    tokenizer = ChatTokenizer.from_files(files)
    assert tokenizer.eos_token_id == 2
    assert tokenizer.chat_template == "d"
    assert tokenizer.encode("[UNK]") == [0]  # unknown, as any unknown word is

"""Several packed sets that read as one."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset.filling import TextFiller
from dataset.mixed_set import JoinedSets, MixedSet, open_mixture
from dataset.mixture import Mixture, read_data_path
from dataset.packing import PackedSet, PackedSetWriter, Piece
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.tiny_model import tiny_tokenizer

Make = Callable[..., PackedSet]


@pytest.fixture
def make(tokenizer: ChatTokenizer, tmp_path: Path) -> Make:
    """A set of random documents of the given sources, in tmp_path."""

    def write(
        name: str,
        sources: tuple[str, ...] = ("a",),
        documents: int = 20,
        max_seq_len: int = 16,
        kind: str = "pretrain",
        by: ChatTokenizer = tokenizer,
    ) -> PackedSet:
        folder = tmp_path / name
        folder.mkdir()
        writer = PackedSetWriter(folder, kind, max_seq_len, by.vocab_size, pad_token_id=1)
        filler = TextFiller(max_seq_len + 1, writer.add_row)
        random = np.random.default_rng(len(name))
        for number in range(documents):
            tokens = random.integers(64, 300, random.integers(2, 40)).astype(np.uint16)
            if kind == "pretrain":
                filler.add(tokens, number % len(sources))
            else:
                tokens = tokens[: max_seq_len + 1]
                writer.add_row([Piece(tokens, np.ones(len(tokens), bool), number % len(sources), 0)])
        if kind == "pretrain" and documents:
            filler.finish()
        writer.finish(by, {"name": name, "sources": list(sources), "num_documents": documents})
        return PackedSet.open(folder)

    return write


def mixture(tmp_path: Path, value: str) -> Mixture:
    found = read_data_path(value, tmp_path)
    assert isinstance(found, Mixture)
    return found


def test_batches_are_those_of_the_sets(make: Make) -> None:
    sets = [make("one", ("web", "books")), make("three", ("books",)), make("seven", ("poems", "web", "books"))]
    joined = JoinedSets("all", sets)
    assert joined.sources == ["web", "books", "poems"]
    assert joined.num_rows == sum(each.num_rows for each in sets)
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(joined.num_rows), 2))
    batch = joined.batch(rows)
    places = [(each, row) for each in sets for row in range(each.num_rows)]
    for number, row in enumerate(rows):
        packed, own_row = places[row]
        expected = packed.batch(np.array([own_row]))
        names = [packed.sources[source] if source >= 0 else None for source in expected.pop("source_ids")[0]]
        found = [joined.sources[source] if source >= 0 else None for source in batch["source_ids"][number]]
        assert found == names
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name][number], array[0], err_msg=name)
    assert (batch["source_ids"] == -1).any(), "the last row of a set has padding"
    counts = (batch["targets"] != -100).sum(axis=1)
    np.testing.assert_array_equal(counts, joined.targets_per_row[rows])
    np.testing.assert_array_equal(batch["segment_ids"].max(axis=1) + 1, joined.segments_per_row[rows])


def test_a_joined_set_describes_the_whole(make: Make, tokenizer: ChatTokenizer) -> None:
    sets = [make("one"), make("three", ("b",))]
    joined = JoinedSets("all", sets)
    assert joined.meta["num_tokens"] == sum(each.meta["num_tokens"] for each in sets)
    assert joined.meta["num_rows"] == joined.num_rows and joined.meta["sources"] == ["a", "b"]
    assert joined.meta["vocab_size"] == tokenizer.vocab_size
    assert ChatTokenizer.from_files(joined.tokenizer_files()).vocabulary_hash == joined.vocabulary_hash
    assert (joined.kind, joined.max_seq_len, joined.row_length) == ("pretrain", 16, 17)


def test_fingerprint_is_of_content_and_mixture_not_of_places(make: Make, tmp_path: Path) -> None:
    make("one")
    make("three")

    def fingerprint(value: str) -> str:
        return open_mixture(mixture(tmp_path, value)).fingerprint

    first = fingerprint("one:1,three:2")
    assert first == fingerprint(f"{tmp_path}/one:1,three:2.0")
    others = ["one:1,three:3", "three:2,one:1", "one:1", "three:1"]
    assert len({first, *(fingerprint(value) for value in others)}) == 5
    (tmp_path / "one").rename(tmp_path / "moved")
    assert fingerprint("moved:1,three:2") == first
    text = "sets: [{path: moved, weight: 1}, {path: three, weight: 2}]\n"
    (tmp_path / "mix.yaml").write_text(text)
    assert fingerprint(f"{tmp_path}/mix.yaml") == first
    (tmp_path / "mix.yaml").write_text(f"seed: 3\n{text}")
    assert fingerprint(f"{tmp_path}/mix.yaml") != first


def test_the_file_may_bring_its_own_seed(make: Make, tmp_path: Path) -> None:
    make("one")
    make("three")
    text = "sets: [{path: one, weight: 1}, {path: three, weight: 2}]\n"

    def first_rows(text: str, seed: int) -> list[int]:
        (tmp_path / "mix.yaml").write_text(text)
        opened = open_mixture(mixture(tmp_path, str(tmp_path / "mix.yaml")))
        return opened.order(global_batch=8, seed=seed).rows_of_step(0).tolist()

    assert first_rows(text, 1) == first_rows(f"seed: 1\n{text}", 2) == first_rows(f"seed: 1\n{text}", 3)
    assert first_rows(text, 1) != first_rows(text, 2)


def test_what_goes_to_a_data_worker_carries_no_arrays(make: Make, tmp_path: Path) -> None:
    """Where workers are not forked, a set is pickled to them: its maps are to be opened there, not copied."""
    small = make("one", documents=5)
    large = make("seven", documents=5000)
    joined = JoinedSets("all", [small, large])
    pickled = pickle.dumps(joined)
    assert len(pickled) < large.tokens.nbytes / 10
    opened = pickle.loads(pickled)
    rows = np.arange(0, joined.num_rows, 7)
    for name, array in joined.batch(rows).items():
        np.testing.assert_array_equal(opened.batch(rows)[name], array)


# ---- what cannot be mixed ----


def test_sets_that_do_not_fit_are_named(make: Make, tmp_path: Path) -> None:
    make("text")
    make("longer", max_seq_len=32)
    make("chat", kind="sft")
    make("empty", documents=0)
    make("foreign", by=tiny_tokenizer())
    for value, words in {
        "text:1,longer:1": "longer: has rows of 32 tokens, .*text, with which it is mixed, of 16",
        "text:1,foreign:1": "foreign: was made with another tokenizer than .*text, with which it is mixed",
        "text:1,chat:1": "chat: a sft set, unlike .*text, with which it is mixed",
        "empty:1,text:1": "empty: has nothing to train on; leave it out of the mixture empty:1,text:1",
    }.items():
        with pytest.raises(UserError, match=words):
            open_mixture(mixture(tmp_path, value))
    with pytest.raises(UserError, match="chat: a sft set, but this stage needs a pretrain one"):
        open_mixture(mixture(tmp_path, "text:1,chat:1"), kind="pretrain")
    # What is not a set at all is told as for a single one.
    (tmp_path / "raw.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"raw\.jsonl: a raw file, not a packed set; pack it first: python data_proc"):
        open_mixture(mixture(tmp_path, f"text:1,{tmp_path}/raw.jsonl:1"), kind="pretrain")


def test_templates_must_agree_where_they_were_used(make: Make, tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    files = dict(tokenizer.files)
    name = next(name for name in files if name.endswith(".jinja"))
    other = ChatTokenizer.from_files({**files, name: files[name] + "{# another #}"})
    assert other.vocabulary_hash == tokenizer.vocabulary_hash and other.template_hash != tokenizer.template_hash
    make("chat", kind="sft")
    make("other_chat", kind="sft", by=other)
    with pytest.raises(UserError, match=r"other_chat: was made with another chat template than .*chat, with which"):
        open_mixture(mixture(tmp_path, "chat:1,other_chat:1"))
    make("text")
    make("other_text", by=other)
    assert isinstance(open_mixture(mixture(tmp_path, "text:1,other_text:1")), MixedSet)

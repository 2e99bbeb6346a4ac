"""Every recipe, from rows in the published form of its set to the packed set, by the command that a user types.

`tests/fixtures/recipes` holds invented rows in the real schemas. `tests/fixtures/recipe_contents.json` says what each
file must become: texts, or conversations of "who: what"; a preference pair ends in its chosen and its rejected answer.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from dataset.packing import PackedSet
from dataset.recipes import recipe_named
from model.tokenizer import ChatTokenizer
from tests.tiny_chain import RunScript
from tests.tiny_model import byte_tokenizer

FIXTURES = Path(__file__).parent.parent / "fixtures"
CONTENTS: dict[str, list[Any]] = json.loads((FIXTURES / "recipe_contents.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer whose tokens are bytes, so that decoding loses nothing."""
    folder = tmp_path_factory.mktemp("recipes")
    byte_tokenizer(2048).save(folder / "tokenizer")
    return folder


def segments_of(packed: PackedSet) -> list[str]:
    """The decoded text of each segment, ⟦ ⟧ around what is trained."""
    tokenizer = ChatTokenizer.from_files(packed.tokenizer_files())
    texts = []
    for row, start, length, *_ in packed.segments.tolist():
        tokens = packed.tokens[row, start : start + length].tolist()
        mask = [False] + [True] * (length - 1)
        if packed.mask is not None:
            mask = packed.mask[row, start : start + length].tolist()
        text = ""
        for trained, run in groupby(zip(mask, tokens, strict=True), key=lambda pair: pair[0]):
            decoded = tokenizer.decode([token for _, token in run], skip_special_tokens=False)
            text += f"⟦{decoded}⟧" if trained else decoded
        texts.append(text)
    return texts


def expected_segments(document: str | list[str]) -> tuple[str, ...]:
    """What a packed document looks like: its opener, what is said, and the marks around what is trained."""
    if isinstance(document, str):
        return (f"<|endoftext|>⟦{document}<|endoftext|>⟧",)
    turns = [tuple(turn.split(": ", 1)) for turn in document]
    if turns[-1][0] != "rejected":
        return ("".join(turn_text(who, what, who == "assistant") for who, what in turns),)
    asked = "".join(turn_text(who, what, False) for who, what in turns[:-2])
    return tuple(asked + turn_text("assistant", what, True) for _, what in turns[-2:])


def turn_text(who: str, what: str, is_trained: bool) -> str:
    said = f"{what}<|im_end|>"
    return f"<|im_start|>{who}\n" + (f"⟦{said}⟧" if is_trained else said) + "\n"


def test_every_fixture_has_its_contents() -> None:
    assert set(CONTENTS) == {path.name for path in (FIXTURES / "recipes").iterdir()}


@pytest.mark.parametrize("file", CONTENTS)
def test_a_recipe_packs_its_set(run_here: RunScript, workspace: Path, file: str) -> None:
    recipe = recipe_named(file.split(".")[0])
    kind = "sft" if recipe.kind == "exam" else recipe.kind
    where = ["--data_path", FIXTURES / "recipes" / file, "--name", file, "--packed_dir", "packed"]
    how = ["--tokenizer", "tokenizer", "--max_seq_len", 2048, "--num_workers", 0]
    finished = run_here("data_process.py", kind, "--recipe", recipe.name, *where, *how, folder=workspace)
    if not CONTENTS[file]:
        assert finished.code == 2 and "nothing left to pack" in finished.errors
        return
    assert finished.code == 0, finished.errors
    assert recipe.licence in finished.output
    packed = PackedSet.open(workspace / "packed" / file, kind=kind, verify=True)
    segments = segments_of(packed)
    num_sides = 2 if kind == "dpo" else 1
    documents = [tuple(segments[first : first + num_sides]) for first in range(0, len(segments), num_sides)]
    assert sorted(documents) == sorted(map(expected_segments, CONTENTS[file]))


def test_the_list_of_recipes(run_here: RunScript, workspace: Path) -> None:
    for flags in (["--recipe", "list"], ["sft", "--recipe", "list"]):
        finished = run_here("data_process.py", *flags, folder=workspace)
        assert (finished.code, finished.errors) == (0, "")
        lines = finished.output.splitlines()
        assert lines[0].split() == ["name", "kind", "languages", "licence"]
        assert any(line.split() == ["ultrafeedback", "dpo", "en", "MIT"] for line in lines)
        assert "    hf:HuggingFaceH4/ultrafeedback_binarized:train_prefs" in lines
        assert max(map(len, lines)) <= 120
        for file in CONTENTS:
            name = file.split(".")[0]
            assert sum(line.split()[0] == name for line in lines if not line.startswith(" ")) == 1


def test_an_unknown_recipe_says_where_the_list_is(run_here: RunScript, workspace: Path) -> None:
    finished = run_here("data_process.py", "sft", "--recipe", "alpaca-ch", folder=workspace)
    assert finished.code == 2
    assert finished.errors == (
        "error: --recipe: no recipe 'alpaca-ch' (did you mean alpaca_zh?); "
        "python data_process.py --recipe list shows all of them\n"
    )

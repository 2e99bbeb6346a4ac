"""Files with something wrong in them, packed: good rows are in the set, bad ones counted, or one line says why."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset.building.pipeline import build_packed_set
from dataset.building.settings import BuildSettings
from dataset.packing import PackedSet
from model.errors import UserError
from tests.dataset.fuzzed_files import BAD_ROWS, FORMATS, MAX_ROW_BYTES, PACKED, as_json_lines

Build = Callable[..., dict[str, Any]]


@pytest.fixture
def build(settings_for: Callable[..., BuildSettings], monkeypatch: pytest.MonkeyPatch) -> Build:
    """Pack a file; rows above a few kilobytes count as gigantic, and a few hundred bytes as a block."""
    monkeypatch.setattr("dataset.sources.Input.blocks.__defaults__", (700, MAX_ROW_BYTES, None))

    def run(path: Path, kind: str = "pretrain", **changes: Any) -> dict[str, Any]:
        return build_packed_set(settings_for(path, kind, **{"max_seq_len": 2000, "max_reject_share": 1, **changes}))

    return run


def texts(numbers: random.Random, count: int = 60) -> list[dict[str, Any]]:
    return [{"text": f"{n} " + "".join(numbers.choices('ab 文字"\\{}[],\n', k=40)) + "."} for n in range(count)]


def chats(numbers: random.Random, count: int = 60) -> list[dict[str, Any]]:
    return [{"instruction": f"q{n}", "input": "", "output": row["text"]} for n, row in enumerate(texts(numbers, count))]


@pytest.mark.parametrize("damage", BAD_ROWS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("kind", "make"), [("pretrain", texts), ("sft", chats)])
def test_bad_rows_are_counted_and_all_others_packed(
    build: Build, tmp_path: Path, form: str, damage: str, kind: str, make: Callable[..., list[dict[str, Any]]]
) -> None:
    numbers = random.Random(f"{form} {damage} {kind}")
    rows = make(numbers)
    bad = {5, 6, *numbers.sample(range(10, 60), 3)}
    path = tmp_path / "data.json"
    path.write_bytes(FORMATS[form](rows, {n: BAD_ROWS[damage](rows[n], numbers) for n in bad}))
    meta = build(path, kind)
    assert meta["num_documents"] == len(rows) - len(bad)
    lines = (tmp_path / "packed" / "mine" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    rejects = [json.loads(line) for line in lines]
    assert len(rejects) == len(bad)
    assert {reject["path"] for reject in rejects} == {str(path)}
    PackedSet.open(tmp_path / "packed" / "mine", verify=True)


@pytest.mark.parametrize(
    "row",
    [
        *('{"text": 3}', '{"text": null}', '{"text": ["a"]}', '{"text": {"b": 1}}', '{"other": "x"}', "{}"),
        *('{"text": ""}', '{"text": "  \\n "}', '{"text": "\\ud800"}', '{"text": true, "source": 7}'),
    ],
)
def test_rows_of_wrong_types_and_empty_ones(build: Build, tmp_path: Path, row: str) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "good"}\n' + row + '\n{"text": "good too"}\n')
    meta = build(tmp_path / "data.jsonl")
    assert meta["num_documents"] == 2
    (line,) = (tmp_path / "packed" / "mine" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["line"] == 2


@pytest.mark.parametrize(
    "row",
    [
        *('{"messages": 3}', '{"messages": []}', '{"messages": [3]}', '{"messages": [{"role": "user"}]}'),
        *('{"conversations": [{"from": "x", "value": "y"}]}', '{"instruction": "q", "output": ["a"]}', "{}"),
        *('{"messages": [{"role": "user", "content": "q"}]}', '{"instruction": "q", "input": "", "output": ""}'),
        *('{"q": "a", "a": "b", "history": "[[1, 2"}', '{"q": "a", "a": "b", "history": "__import__(\'os\').abort()"}'),
    ],
)
def test_conversations_of_wrong_types(build: Build, tmp_path: Path, row: str) -> None:
    """Nothing is guessed, nothing runs, and no conversation without an answer is trained on."""
    good = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "%d"}]}\n'
    (tmp_path / "data.jsonl").write_text(good % 1 + row + "\n" + good % 2)
    meta = build(tmp_path / "data.jsonl", "sft")
    assert meta["num_documents"] == 2
    packed = PackedSet.open(tmp_path / "packed" / "mine")
    assert (packed.segments["targets"] > 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("packing", PACKED)
def test_cut_and_damaged_files_leave_no_half_set(build: Build, tmp_path: Path, packing: str, seed: int) -> None:
    numbers = random.Random(f"{packing} {seed}")
    rows = texts(numbers)
    whole = PACKED[packing](as_json_lines(rows, {}))
    path = tmp_path / "data.jsonl"
    path.write_bytes(whole[: numbers.randrange(len(whole) // 2, len(whole) - 1)])
    problem, meta = None, {}
    try:
        meta = build(path)
    except UserError as error:
        problem = str(error)
    if problem is None:
        assert packing in ("plain", "tar")  # cut between two rows, or in the zeros at the end
        assert 0 < meta["num_documents"] <= len(rows)
    else:
        assert problem.startswith(str(path))
        assert "\n" not in problem
        assert not (tmp_path / "packed" / "mine").exists()
    path.write_bytes(whole)
    assert build(path, overwrite=True)["num_documents"] == len(rows)

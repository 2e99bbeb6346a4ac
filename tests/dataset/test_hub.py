"""Sets of the hub through the real `datasets` library (on local folders), files of a hub by name, and no network."""

import json
from pathlib import Path

import pytest

import dataset.reading.hub
from dataset.reading.formats import Reject
from dataset.reading.hub import find_hub_split
from dataset.reading.web import WebFile
from dataset.sources import find_inputs, read_rows
from model.errors import UserError

ROWS = [{"text": f"第{n}行", "meta": {"n": n, "tags": ["a", "b"]}} for n in range(700)]


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A folder laid out like a set of the hub, with two splits."""
    folder = tmp_path / "tiny_set"
    folder.mkdir()
    for name, rows in (("train", ROWS), ("test", ROWS[:3])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_a_split_is_streamed(hub_folder: Path) -> None:
    (found,) = find_inputs([f"hf:{hub_folder}"])
    assert (found.name, found.label, found.size) == (f"hf:{hub_folder}:train", "tiny_set", None)
    rows = list(read_rows([f"hf:{hub_folder}"]))
    assert [(row.path, row.line, row.value) for row in rows] == [
        (found.name, line, row) for line, row in enumerate(ROWS, start=1)
    ]
    blocks = list(found.blocks(block_bytes=2000))
    assert len(blocks) > 10
    assert blocks == list(found.blocks(block_bytes=2000))
    assert [row.value for row in read_rows([f"hf:{hub_folder}:test"])] == ROWS[:3]


def test_two_splits_of_one_set(hub_folder: Path) -> None:
    found = find_inputs([f"hf:{hub_folder}:train", f"hf:{hub_folder}:test", f"hf:{hub_folder}"])
    assert [source.name for source in found] == [f"hf:{hub_folder}:train", f"hf:{hub_folder}:test"]
    assert len({source.label for source in found}) == 2
    prints = [source.fingerprint() for source in found]
    assert len(set(prints)) == 2
    (hub_folder / "train.jsonl").write_text('{"text": "other"}\n')
    assert find_inputs([f"hf:{hub_folder}:train"])[0].fingerprint() not in prints


def test_a_row_above_the_limit(hub_folder: Path) -> None:
    (hub_folder / "train.jsonl").write_text('{"text": "a"}\n{"text": "' + "x" * 3000 + '"}\n{"text": "b"}\n')
    rows = list(read_rows([f"hf:{hub_folder}"], max_row_bytes=1000))
    assert [row.reason if isinstance(row, Reject) else row.value["text"] for row in rows] == ["a", "too long", "b"]


def test_what_is_not_there(hub_folder: Path, tmp_path: Path) -> None:
    for name, message in (
        (f"hf:{hub_folder}:dev", rf"no split 'dev'; choose one of its own: hf:{hub_folder}:{{train,test}}"),
        (f"hf:{tmp_path}/nothing", "no such folder"),
        ("hf:only_a_name", "expected hf:owner/name, hf:owner/name/config:split"),
        ("hf:", "expected hf:owner/name"),
        ("hf:owner/name", r"^hf:owner/name: HF_HUB_OFFLINE is set, so the hub is not asked"),
        ("hf:owner/name/data/a.jsonl", r"^hf:owner/name/data/a.jsonl: HF_HUB_OFFLINE is set"),
    ):
        with pytest.raises(UserError, match=message):
            find_inputs([name])
    (hub_folder / "train.jsonl").unlink()
    (hub_folder / "test.jsonl").unlink()
    with pytest.raises(UserError, match="cannot be read by the datasets library"):
        find_inputs([f"hf:{hub_folder}"])


def test_a_damaged_set(hub_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open(hub_folder / "train.jsonl", "a") as file:
        file.write('{"text": broken\n')
    with pytest.raises(UserError, match=r":train: row \d+: cannot be read by the datasets library \(.*JSON") as error:
        list(read_rows([f"hf:{hub_folder}"]))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # the library's own complaint would be the same once more


def test_code_of_a_set_is_not_run(hub_folder: Path, tmp_path: Path) -> None:
    (hub_folder / "tiny_set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be read by the datasets library"):
        find_inputs([f"hf:{hub_folder}"])
    assert not (tmp_path / "ran").exists()


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, sent to a port where nobody answers: one line, soon."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(
        UserError, match=r"^hf:owner/name: the hub cannot be reached \(.*\); check the network"
    ) as error:
        find_hub_split("hf:owner/name")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("hf:owner/set/data/zh/a b.jsonl", "/datasets/owner/set/resolve/main/data/zh/a%20b.jsonl"),
        ("hf:owner/set/a.csv.gz", "/datasets/owner/set/resolve/main/a.csv.gz"),
    ],
)
def test_files_of_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, url: str) -> None:
    asked = []

    def find(address: str, headers: dict[str, str] | None = None, shown: str | None = None) -> WebFile:
        asked.append(address)
        return WebFile(address, shown or address, 1, "1")

    monkeypatch.setattr(
        dataset.reading.hub, "find_web_file", lambda url, headers=None, name=None: find(url, headers, name)
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert dataset.reading.hub.find_hub_file(name).name == name
    assert asked[0].startswith("https://")
    assert asked[0].endswith(url)


def test_a_config_is_no_file() -> None:
    assert dataset.reading.hub.find_hub_file("hf:owner/name") is None
    assert dataset.reading.hub.find_hub_file("hf:owner/name/en-v1.0:train") is None
    assert dataset.reading.hub.find_hub_file("hf:/data/my.jsonl") is None

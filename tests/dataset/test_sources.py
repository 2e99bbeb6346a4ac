"""What names stand for: files, folders, patterns, each once and in a fixed order; labels and fingerprints."""

import errno
import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataset.reading.formats import Row
from dataset.reading.streams import Stamp
from dataset.sources import Input, find_inputs, read_rows
from model.errors import UserError
from model.files import sha256_of_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a few files, some of them hidden."""
    for name in ("b/2.txt", "a/1.txt", "a/.hidden.txt", ".cache/x.txt", "3.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n")
    return tmp_path


def names(inputs: list[Input], folder: Path) -> list[str]:
    return [str(Path(found.name).relative_to(folder)) for found in inputs]


def test_files_folders_and_patterns(folder: Path) -> None:
    assert names(find_inputs([folder]), folder) == ["3.json", "a/1.txt", "b/2.txt"]
    assert names(find_inputs([str(folder) + "/"]), folder) == ["3.json", "a/1.txt", "b/2.txt"]
    assert names(find_inputs([folder / "*" / "*.txt", folder / "a"]), folder) == ["a/1.txt", "b/2.txt"]
    assert names(find_inputs([folder / "**" / "*.txt"]), folder) == ["a/1.txt", "b/2.txt"]
    assert names(find_inputs([folder / "a" / ".*"]), folder) == ["a/.hidden.txt"]
    # The order of the names is the order of the inputs.
    assert names(find_inputs([folder / "b" / "2.txt", folder]), folder) == ["b/2.txt", "3.json", "a/1.txt"]


def test_patterns_from_where_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [found.name for found in find_inputs(["*.json", "a/../a/1.txt", Path("a")])] == ["3.json", "a/../a/1.txt"]


def test_a_file_is_read_once_whatever_it_is_called(folder: Path) -> None:
    (folder / "link.txt").symlink_to(folder / "a" / "1.txt")
    (folder / "linked").symlink_to(folder / "b")
    assert names(find_inputs([folder]), folder) == ["3.json", "a/1.txt", "b/2.txt"]
    assert len(find_inputs([folder / "link.txt", folder / "a" / "1.txt"])) == 1


def test_folders_are_followed_through_links_but_not_in_circles(folder: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.txt").write_text("far\n")
    (elsewhere / "back").symlink_to(folder)
    data = folder / "a"
    (data / "linked").symlink_to(elsewhere)
    (data / "itself").symlink_to(data)
    (data / "above").symlink_to(folder)  # would bring in what lies beside the folder
    (data / "sub").mkdir()
    (data / "sub" / "down").symlink_to(data / "sub")
    assert names(find_inputs([data]), data) == ["1.txt", "linked/far.txt"]
    assert [Path(found.name).name for found in find_inputs([data / "**" / "*.txt"])] == ["1.txt"]


def test_what_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "none").mkdir()
    (folder / "empty.txt").touch()
    (folder / "dangling.txt").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe")
    for name, message in (
        ("nothing.jsonl", "nothing.jsonl: no such file or folder$"),
        ("*.nothing", r"\*.nothing: no such file or folder$"),
        ("none", "none: the folder holds no file"),
        ("empty.txt", "empty.txt: the file is empty"),
        ("pipe", "pipe: neither a file nor a folder"),
        (str(folder), "dangling.txt: a link to a file that is not there"),
        ("Skywork/SkyPile-150B", "no such file or folder; for the hub's set of that name: hf:Skywork/SkyPile-150B"),
    ):
        with pytest.raises(UserError, match=message):
            find_inputs([name])


def test_what_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # (root, as which tests may run, is never refused)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("dataset.reading.streams.open", refuse, raising=False)
    with pytest.raises(UserError, match=r"3.json: cannot be read \(Permission denied\); change its permissions"):
        find_inputs([folder])


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_an_empty_name_is_not_the_folder_one_is_in(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="an empty name; expected a file, a folder, a pattern or an address"):
        find_inputs([name])


def test_names_that_no_file_can_have(folder: Path) -> None:
    for name in (folder / ("x" * 5000), folder / "3.json" / "x", str(folder / "nul\0"), f"{folder}/nul\0*"):
        with pytest.raises(UserError) as error:
            find_inputs([name])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("gone", ["a", "b/2.txt"])
def test_what_is_taken_away_while_we_look_was_never_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """A folder vanishes before it is listed, a file between the list and the look at it."""
    walk, stamp_of = os.walk, Stamp.of

    def walk_and_lose(*arguments: Any, **options: Any) -> Iterator[Any]:
        for entry in walk(*arguments, **options):
            yield entry
            if gone == "a" and (folder / gone).exists():
                shutil.rmtree(folder / gone)

    def lose(path: Path) -> Stamp:
        if path == folder / gone:
            path.unlink()
        return stamp_of(path)

    monkeypatch.setattr("dataset.sources.os.walk", walk_and_lose)
    monkeypatch.setattr(Stamp, "of", lose)
    left = {"3.json", "a/1.txt", "b/2.txt"} - {gone, f"{gone}/1.txt"}
    assert names(find_inputs([folder]), folder) == sorted(left)
    assert not (folder / gone).exists()


def test_a_folder_that_may_not_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/b: cannot be read \(Permission denied\); change its permissions"):
        find_inputs([folder])


def test_a_name_that_is_no_text(folder: Path) -> None:
    path = os.fsencode(folder) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"text\n")
    (found,) = find_inputs([Path(os.fsdecode(path))])
    assert found.name.encode() == os.fsencode(folder) + b"/caf\\udce9.txt"
    assert [row.value for row in read_rows([Path(os.fsdecode(path))])] == [{"text": "text"}]


def test_labels(tmp_path: Path) -> None:
    def labels(*files: str) -> list[str]:
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / file).write_text("x")
        return [found.label for found in find_inputs([tmp_path / file for file in files])]

    assert labels("wiki.jsonl", "books.v2.txt") == ["wiki", "books.v2"]
    assert labels("web.jsonl.gz", "web2.csv.zst") == ["web", "web2"]
    assert labels("zh/train.json", "en/train.json", "en/test.json") == ["zh/train.json", "en/train.json", "test"]
    twice = [f"{tmp_path}/{name}" for name in ("x/zh/a.txt", "y/zh/a.txt")]
    assert labels("x/zh/a.txt", "y/zh/a.txt", "b.txt") == [*twice, "b"]


def test_sizes_and_fingerprints(folder: Path) -> None:
    one, two, three = find_inputs([folder])
    assert one.size == (folder / "3.json").stat().st_size
    assert one.fingerprint() == sha256_of_file(folder / "3.json")
    assert len({one.fingerprint(), two.fingerprint(), three.fingerprint()}) == 3
    before = one.fingerprint()
    (folder / "3.json").write_text("something else\n")
    (again,) = find_inputs([folder / "3.json"])
    assert again.fingerprint() == sha256_of_file(folder / "3.json") != before


def test_rows_name_their_input(folder: Path) -> None:
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\nbroken\n'))
    found = find_inputs([folder])
    assert {row.path for row in read_rows([folder])} == {source.name for source in found}
    assert [block.path for source in found for block in source.blocks()] == [source.name for source in found]
    rows = list(read_rows([folder / "c.jsonl.gz"]))
    assert [(row.line, isinstance(row, Row)) for row in rows] == [(1, True), (2, False)]

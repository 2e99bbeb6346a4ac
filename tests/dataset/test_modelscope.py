"""Sets of ModelScope, served from this machine as the hub serves them: folder by folder, page by page."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

import dataset.reading.modelscope
from dataset.building.settings import default_name
from dataset.reading.formats import Row
from dataset.sources import find_inputs, read_rows
from model.errors import UserError
from tests.dataset.local_server import Server, send

PAGE = 3  # entries that the hub of these tests gives at once, whatever is asked for


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def tar_of(name: str, content: bytes) -> bytes:
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:bz2") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stored.getvalue()


class Hub:
    """A hub of one set, owner/name."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self.listings: list[tuple[str, int]] = []  # folder and page of each request
        self.change: Callable[[dict[str, Any]], Any] = lambda answer: answer

        class Answers(dict[str, Callable[[BaseHTTPRequestHandler], None]]):
            def __missing__(answers, path: str) -> Callable[[BaseHTTPRequestHandler], None]:
                return lambda handler: self.answer(handler, path)

        server.answers = Answers()

    def answer(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        place = urlsplit(path)
        asked = {key: value for key, (value,) in parse_qs(place.query, keep_blank_values=True).items()}
        if place.path == "/hub/owner/name/repo" and asked["FilePath"] in self.files and asked["Revision"] == "master":
            send(handler, self.files[asked["FilePath"]], '"1"')
        elif place.path == "/hub/owner/name/repo/tree":
            answer = self.change(self.listing(asked["Root"], int(asked["PageNumber"])))
            send(handler, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        else:
            send(handler, b'{"Code": 10010205001, "Message": "not found", "Success": false}', status=404)

    def listing(self, folder: str, page: int) -> dict[str, Any]:
        self.listings.append((folder, page))
        entries: dict[str, str] = {}
        for path in self.files:
            for parent in [PurePosixPath(path), *PurePosixPath(path).parents]:
                if str(parent) != "." and str(parent.parent) == (folder or "."):
                    entries[str(parent)] = "blob" if str(parent) == path else "tree"
        files = [
            {"Name": PurePosixPath(path).name, "Path": path, "Type": kind, "Size": len(self.files.get(path, b""))}
            for path, kind in sorted(entries.items())
        ]
        listed = files[(page - 1) * PAGE : page * PAGE]
        return {"Code": 200, "Data": {"Files": listed, "TotalCount": len(files)}, "Success": True}


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(dataset.reading.modelscope, "_HUB", f"{server.url}/hub")
    hub = Hub(server)
    hub.files = {
        ".gitattributes": b"*.zip filter=lfs",
        "README.md": b"# A set",
        "dataset_infos.json": b'{"default": {"features": {}}}',
        "cover.png": b"\x89PNG",
        "loader.py": b"raise SystemExit",
        "top.jsonl": rows("top"),
        "data/a.jsonl": rows("a1", "a2"),
        "data/b.csv.gz": gzip.compress(b"text,n\nb1,1\n"),
        "data/deep/er/c d+e.json": b'[{"text": "c"}]',
        "data/deep/.cache/left.jsonl": rows("hidden"),
        "data/deep/configuration.json": b"{}",
        "packed.jsonl.tar.bz2": tar_of("inside.jsonl", rows("packed")),
        "v1.0/x.txt": b"x\n",
    }
    return hub


def texts(name: str) -> list[str]:
    return [row.value["text"] for row in read_rows([name]) if isinstance(row, Row)]


def test_a_whole_set(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_inputs(["ms:owner/name"])
    assert capsys.readouterr().out == (
        "ms:owner/name: 6 files with data; not read: .gitattributes, README.md, cover.png, "
        "data/deep/.cache/left.jsonl, data/deep/configuration.json and 2 more\n"
    )
    assert [source.name for source in found] == [
        "ms:owner/name/data/a.jsonl",
        "ms:owner/name/data/b.csv.gz",
        "ms:owner/name/data/deep/er/c d+e.json",
        "ms:owner/name/packed.jsonl.tar.bz2/inside.jsonl",
        "ms:owner/name/top.jsonl",
        "ms:owner/name/v1.0/x.txt",
    ]
    assert texts("ms:owner/name") == ["a1", "a2", "b1", "c", "packed", "top", "x"]
    assert [source.label for source in found] == ["a", "b", "c d+e", "inside", "top", "x"]
    assert len({source.fingerprint() for source in found}) == 6
    assert default_name("ms:owner/name") == default_name("ms:owner/name/data") == "name"
    # Nothing but what holds rows is fetched, and every page of every folder was asked for once a search.
    asked = {path for path, _ in hub.server.requests}
    assert not any(
        name in path for path in asked for name in ("README", "cover.png", "loader.py", "infos", "left.jsonl")
    )
    assert len(hub.listings) == 2 * len(set(hub.listings))
    assert set(hub.listings) == {
        *(("", page) for page in (1, 2, 3, 4)),  # the last brings nothing new
        *(
            (path, page)
            for path in ("data", "data/deep", "data/deep/.cache", "data/deep/er", "v1.0")
            for page in (1, 2)
        ),
    }


def test_a_part_of_a_set(hub: Hub) -> None:
    assert texts("ms:owner/name/data") == texts("ms:owner/name/data/") == ["a1", "a2", "b1", "c"]
    assert texts("ms:owner/name/v1.0") == ["x"]
    assert texts("ms:owner/name/") == texts("ms:owner/name")


def test_one_file_is_asked_for_by_name(hub: Hub) -> None:
    assert texts("ms:owner/name/data/deep/er/c d+e.json") == ["c"]
    assert not hub.listings
    path = f"/hub/owner/name/repo?Revision=master&FilePath={quote('data/deep/er/c d+e.json', safe='')}"
    assert {path for path, _ in hub.server.requests} == {path}


def test_a_set_of_hundreds_of_files_is_listed_to_the_end(hub: Hub) -> None:
    hub.files = {f"part-{n:03}.txt": b"%d\n" % n for n in range(40)}
    assert texts("ms:owner/name") == [str(n) for n in range(40)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ms:owner", "expected ms:owner/name, ms:owner/name/folder or"),
        ("ms:", "expected ms:owner/name"),
        ("ms:owner/other", r"^ms:owner/other: the server answers 404 .*no such set or folder on ModelScope"),
        ("ms:owner/name/nothing", r"^ms:owner/name/nothing: nothing in it can be read: no file is there"),
        ("ms:owner/name/no.jsonl", r"^ms:owner/name/no.jsonl: the server answers 404 .*no such file there"),
        ("ms:owner/name/data/deep/.cache", r"it holds data/deep/.cache/left.jsonl, expected JSON"),
    ],
)
def test_what_is_not_there(hub: Hub, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_inputs([name])
    assert "\n" not in str(error.value)


def test_a_set_without_data(hub: Hub) -> None:
    hub.files = {"README.md": b"# nothing", **{f"{n}.png": b"" for n in range(9)}}
    with pytest.raises(
        UserError, match=r"^ms:owner/name: nothing in it can be read: it holds 0.png, 1.png, .* and 5 more, exp"
    ):
        find_inputs(["ms:owner/name"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: b"<html>", "the hub answers with no JSON"),
        (lambda answer: [answer], "no such set or folder"),
        (lambda answer: {"Code": 403, "Message": "not\nyours", "Data": None}, r"\(or it is private\): not yours$"),
        (lambda answer: {"Code": 200, "Data": {"Files": [{"Name": "a"}], "TotalCount": 1}}, "no list of files"),
        (lambda answer: {"Code": 200, "Data": {"Files": None}}, "no file is there"),
        # A folder in itself comes to an end.
        (lambda answer: {"Data": {"Files": [{"Path": "data", "Type": "tree"}]}}, "no file is there"),
    ],
)
def test_a_hub_that_answers_nonsense(hub: Hub, change: Callable[[Any], Any], message: str) -> None:
    hub.change = change
    with pytest.raises(UserError, match=f"^ms:owner/name: .*{message}") as error:
        find_inputs(["ms:owner/name"])
    assert "\n" not in str(error.value)


def test_a_hub_that_gives_the_same_page_for_ever(hub: Hub) -> None:
    hub.change = lambda answer: {"Data": {"Files": [{"Path": "top.jsonl", "Type": "blob"}]}}
    assert [source.name for source in find_inputs(["ms:owner/name"])] == ["ms:owner/name/top.jsonl"]


def test_a_listing_that_breaks_off(hub: Hub, server: Server) -> None:
    server.answers = {}
    path = "/hub/owner/name/repo/tree?Revision=master&Root=&PageSize=100&PageNumber=1"
    server.answers[path] = lambda handler: send(handler, b'{"Code": 200', length=1000)
    with pytest.raises(UserError, match=r"^ms:owner/name: .* while the hub listed its files; try again later"):
        find_inputs(["ms:owner/name"])


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(dataset.reading.modelscope, "_HUB", "http://127.0.0.1:9/hub")
    with pytest.raises(UserError, match=r"^ms:owner/name: connection refused; check the address and the network$"):
        find_inputs(["ms:owner/name"])

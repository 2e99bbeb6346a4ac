"""Files on a web server: streamed, taken up again after a break, and every way it can fail in one line."""

import gzip
import socket
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import dataset.reading.web
from dataset.reading.formats import Row
from dataset.sources import find_inputs, read_rows
from model.errors import UserError
from tests.dataset.local_server import Server, send

LINES = b"".join(b'{"text": "row %d"}\n' % n for n in range(20_000))
ROWS = [{"text": f"row {n}"} for n in range(20_000)]


def values(url: str) -> list[dict]:
    return [row.value for row in read_rows([url]) if isinstance(row, Row)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_is_streamed(server: Server, pack: Callable[[bytes], bytes]) -> None:
    url = server.serve("/sets/wiki.jsonl?download=true", pack(LINES))
    (found,) = find_inputs([url])
    assert (found.name, found.label, found.size) == (url, "wiki", len(pack(LINES)))
    blocks = list(found.blocks(block_bytes=50_000))
    assert len(blocks) >= 7
    assert blocks[-1].bytes_read == found.size
    assert blocks == list(found.blocks(block_bytes=50_000))  # however the network cuts its packets
    assert values(url) == ROWS
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_an_archive_is_fetched_once(server: Server, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        for n in range(3):
            archive.writestr(f"part-{n}.jsonl", b'{"text": "%d"}\n' % n)
    url = server.serve("/dump.zip", (tmp_path / "dump.zip").read_bytes())
    inputs = find_inputs([url])
    assert [found.name for found in inputs] == [f"{url}/part-{n}.jsonl" for n in range(3)]
    asked = len(server.requests)
    assert [next(found.blocks()).data for found in inputs] == [b'{"text": "%d"}\n' % n for n in range(3)]
    assert len(server.requests) == asked
    assert len({found.fingerprint() for found in inputs}) == 3


def test_parquet_over_the_network(server: Server, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(server.serve("/a.parquet", (tmp_path / "a.parquet").read_bytes())) == ROWS


def test_redirects_are_followed(server: Server) -> None:
    target = server.serve("/target.jsonl", LINES)
    server.answers["/moved"] = lambda handler: send(handler, b"", status=302, Location=target)
    assert values(server.url + "/moved") == ROWS
    server.answers["/circle"] = lambda handler: send(handler, b"", status=302, Location="/circle")
    with pytest.raises(UserError, match="/circle: it redirects in a circle; check the address"):
        find_inputs([server.url + "/circle"])


def test_a_broken_connection_is_taken_up_again(server: Server) -> None:
    """The first answer to the reading breaks off in the middle; the second request asks for the rest."""
    url = server.serve("/a.jsonl", LINES)
    whole = server.answers["/a.jsonl"]

    def breaks_off(handler: BaseHTTPRequestHandler) -> None:
        if "Range" in handler.headers:
            whole(handler)
        else:
            send(handler, LINES[:100_000], '"1"', length=len(LINES))

    (found,) = find_inputs([url])
    server.answers["/a.jsonl"] = breaks_off
    assert b"".join(block.data for block in found.blocks()) == LINES
    assert server.requests[-1][1]["Range"] == "bytes=100000-"


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_cut_body(server: Server, etag: str | None) -> None:
    """Each answer breaks off: with nothing new after a few tries, or without a version, it is given up."""
    server.answers["/a.jsonl"] = lambda handler: send(handler, LINES[:100_000], etag, length=len(LINES))
    with pytest.raises(
        UserError, match=r"/a.jsonl: cut off after 100,000 of 428,890 bytes \(the connection was closed"
    ):
        values(server.url + "/a.jsonl")


def test_a_chunked_body_without_a_length(server: Server) -> None:
    def answer(handler: BaseHTTPRequestHandler, end: bytes = b"0\r\n\r\n") -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for start in range(0, len(LINES), 100_000):
            part = LINES[start : start + 100_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(end)
        handler.close_connection = True

    server.answers["/a.jsonl"] = answer
    (found,) = find_inputs([server.url + "/a.jsonl"])
    assert found.size is None
    assert values(server.url + "/a.jsonl") == ROWS
    server.answers["/a.jsonl"] = lambda handler: answer(handler, end=b"")
    with pytest.raises(UserError, match=r"/a.jsonl: cut off after [0-9,]+ bytes"):
        values(server.url + "/a.jsonl")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "the server answers 404 Not Found; no such file there: check the address"),
        (403, "answers 403 Forbidden; access is denied"),
        (401, "answers 401 Unauthorized; it needs a login"),
        (429, "answers 429 Too Many Requests; too many requests: try again later"),
        (503, "answers 503 Service Unavailable; try again later"),
        (410, "answers 410 Gone; check the address"),
    ],
)
def test_refusals(server: Server, status: int, message: str) -> None:
    server.answers["/a.jsonl"] = lambda handler: send(handler, b"", status=status)
    with pytest.raises(UserError, match=f"/a.jsonl: .*{message}"):
        find_inputs([server.url + "/a.jsonl"])


def test_no_server_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.jsonl"
        with pytest.raises(UserError, match=f"^{url}: connection refused; check the address and the network$"):
            find_inputs([url])

    def unknown_host(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    for url, message in (
        ("http://no-such-host.invalid/a.jsonl", "host not found; check"),
        ("http://" + "a" * 70 + ".org/a.jsonl", "not a web address; check"),
        ("http://[broken/a.jsonl", "not a web address; check"),
        ("https://", "not a web address; check"),
    ):
        with pytest.raises(UserError, match=message):
            find_inputs([url])


@pytest.mark.parametrize("where", ["before the answer", "in the body"])
def test_a_server_that_stops_answering(server: Server, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(dataset.reading.web, "READ_SECONDS", 0.2)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if where == "in the body":
            send(handler, LINES[:100_000], length=len(LINES))
        time.sleep(1)

    server.answers["/a.jsonl"] = answer
    with pytest.raises(UserError, match=r"/a.jsonl: .*no answer within 0.2 seconds"):
        values(server.url + "/a.jsonl")


def test_a_file_that_changes_on_the_server(server: Server) -> None:
    (found,) = find_inputs([server.serve("/a.jsonl", LINES, etag='"1"')])
    server.serve("/a.jsonl", LINES, etag='"2"')
    with pytest.raises(UserError, match="the file on the server changed; run the same command again"):
        list(found.blocks())

    # In the middle of the reading: the rest that is asked for belongs to another file.
    (found,) = find_inputs([server.url + "/a.jsonl"])

    def breaks_off(handler: BaseHTTPRequestHandler) -> None:
        etag = '"3"' if "Range" in handler.headers else '"2"'
        send(handler, LINES[:100_000], etag, length=len(LINES))

    server.answers["/a.jsonl"] = breaks_off
    with pytest.raises(UserError, match="the file on the server changed"):
        list(found.blocks())


def test_fingerprints(server: Server) -> None:
    def fingerprint(content: bytes, etag: str | None, **headers: str) -> str:
        (found,) = find_inputs([server.serve("/a.jsonl", content, etag, **headers)])
        return found.fingerprint()

    assert fingerprint(LINES, '"1"') == fingerprint(LINES, '"1"')
    assert fingerprint(LINES, '"1"') != fingerprint(LINES, '"2"')
    dated = fingerprint(LINES, None, Last_Modified="Sat, 01 Jan 2022 00:00:00 GMT")
    assert dated != fingerprint(LINES, None, Last_Modified="Sun, 02 Jan 2022 00:00:00 GMT")
    # A server that says nothing of versions: the bytes themselves decide.
    assert fingerprint(LINES, None) == fingerprint(LINES, None)
    assert fingerprint(LINES, None) != fingerprint(LINES.replace(b"7", b"8"), None)


def test_a_web_page_is_no_data(server: Server) -> None:
    url = server.serve("/blob/a.jsonl", b"<!doctype html>", Content_Type="text/html; charset=utf-8")
    with pytest.raises(UserError, match="this is a web page, not a data file; copy the link of its download button"):
        find_inputs([url])


def test_passwords_are_not_shown(server: Server) -> None:
    url = server.serve("/a.jsonl", LINES).replace("http://", "http://me:secret@")
    (found,) = find_inputs([url])
    assert "secret" not in found.name
    assert next(found.blocks()).path == found.name
    assert server.requests[-1][1]["Authorization"].startswith("Basic ")

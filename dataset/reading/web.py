"""Files on web servers, streamed: a lost connection is taken up again where the server allows it."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dataset.reading.streams import Stream
from model.errors import UserError
from model.files import canonical_json, sha256_of_text

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
_ATTEMPTS = 3  # without a byte of progress
_CHUNK_BYTES = 1 << 17


@dataclass(frozen=True)
class WebFile:
    """A file on a server, as the server described it."""

    url: str
    name: str  # without a password that the address may hold
    size: int | None
    version: str | None  # ETag or date of last change
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # sent with each request: a token

    @contextmanager
    def open(self) -> Iterator[Stream]:
        """Its bytes. UserError: see `find_web_file`; or it changed since, or its end does not come."""
        body = _Body(self)
        try:
            yield Stream(self.name, io.BufferedReader(body, _CHUNK_BYTES), size=self.size)
        finally:
            body.close()

    def fingerprint(self) -> str:
        """Of the version that the server tells; where it tells none, of the bytes, which takes a download."""
        if self.version is not None:
            return sha256_of_text(canonical_json([self.url, self.version, self.size]))
        with self.open() as stream:
            return hashlib.file_digest(io.BufferedReader(stream), "sha256").hexdigest()


def find_web_file(url: str, headers: dict[str, str] | None = None, name: str | None = None) -> WebFile:
    """Ask a server about a file; `name` is how people know it, by default its address.

    Raises:
        UserError: no such host or file, no connection, no permission, no answer in time, or a web page.
    """
    name = name or re.sub(r"(?<=//)[^/@]*@", "", url)
    response = request(WebFile(url, name, None, None, headers or {}))
    with response:
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{name}: this is a web page, not a data file; copy the link of its download button")
        size = response.headers.get("Content-Length", "")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        return WebFile(url, name, int(size) if size.isdigit() else None, version, headers or {})


class _Body(io.RawIOBase):
    """The bytes of an answer, checked against the announced length."""

    def __init__(self, file: WebFile) -> None:
        self._file, self._position = file, 0
        self._response = request(file)
        self._check(self._response)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        from urllib3.exceptions import HTTPError

        failures = 0
        while True:
            problem = None
            try:
                data = self._response.raw.read(len(buffer))
            except (HTTPError, OSError) as error:
                data, problem = b"", in_words(error)
            if data:
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            if self._position == self._file.size or (self._file.size is None and problem is None):
                return 0
            failures += 1
            if failures == _ATTEMPTS or not self._take_up_again():
                total = "" if self._file.size is None else f" of {self._file.size:,}"
                reason = problem or "the connection was closed"
                raise UserError(
                    f"{self._file.name}: cut off after {self._position:,}{total} bytes ({reason}); "
                    f"run the same command again, or download the file first"
                )

    def _take_up_again(self) -> bool:
        """Ask for the rest; False when the server only sends whole files."""
        self._response.close()
        version = self._file.version
        if version is None or version.startswith("W/"):  # nothing would tell that it is still the same file
            return False
        self._response = request(self._file, {"Range": f"bytes={self._position}-", "If-Range": version})
        self._check(self._response)
        return self._response.status_code == 206

    def _check(self, response: "requests.Response") -> None:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version != self._file.version:
            raise UserError(f"{self._file.name}: the file on the server changed; run the same command again")

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


def request(
    file: WebFile, more_headers: dict[str, str] | None = None, if_missing: str = "no such file there: check the address"
) -> "requests.Response":
    """The server's answer, whose body is still to be read. UserError: there is none, or it is a refusal."""
    import requests
    from urllib3.exceptions import HTTPError

    # "identity": the bytes as they are stored, whose number is the announced one.
    headers = {"Accept-Encoding": "identity", **file.headers, **(more_headers or {})}
    try:
        response = requests.get(file.url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except (requests.RequestException, HTTPError) as error:  # (HTTPError: a host name with a part too long)
        raise UserError(f"{file.name}: {in_words(error)}; check the address and the network") from error
    if response.status_code in (200, 206):
        return response
    response.close()
    found = f"{response.status_code} {response.reason}"
    advice = {
        401: "it needs a login: download it in a browser, or set a token",
        403: "access is denied: download it in a browser, or set a token",
        404: if_missing,
        429: "too many requests: try again later",
    }.get(response.status_code, "try again later" if response.status_code >= 500 else "check the address")
    raise UserError(f"{file.name}: the server answers {found}; {advice}")


def in_words(error: Exception) -> str:
    """What a network error means, found by its type or, where only that is there, its text."""
    text = repr(error)
    for sign, meaning in (
        ("NameResolution", "host not found"),
        ("getaddrinfo", "host not found"),
        ("Connection refused", "connection refused"),
        ("ConnectTimeout", f"no connection within {CONNECT_SECONDS:g} seconds"),
        ("ReadTimeout", f"no answer within {READ_SECONDS:g} seconds"),
        ("TooManyRedirects", "it redirects in a circle"),
        ("ProxyError", "the proxy does not let us through"),
        ("SSL", "the server's certificate is not trusted"),
        ("InvalidURL", "not a web address"),
        ("LocationParse", "not a web address"),
        ("IncompleteRead", "the connection was closed too early"),
        ("Connection reset", "the connection was reset"),
        ("RemoteDisconnected", "the server closed the connection"),
    ):
        if sign in text:
            return meaning
    return f"{type(error).__name__}: {error}"

"""Sets of ModelScope by a short name: whole, a folder of one, or one file.

ms:owner/name                    every data file of the set
ms:owner/name/folder             every data file below a folder of it
ms:owner/name/folder/file.jsonl  one file

Hugging Face's sets are streamed by the `datasets` library, which knows no other hub, and ModelScope's own client would
be one more large package. But this hub serves plain files at plain addresses. So they are listed, and read like files
of any server: streamed, cut into rows here, taken up again after a lost connection. Nothing of a set is run.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from dataset.reading.formats import DATA_SUFFIXES, data_suffix
from dataset.reading.web import WebFile, find_web_file, in_words, request
from model.errors import UserError

_HUB = "https://www.modelscope.cn/api/v1/datasets"
_REVISION = "master"
_PAGE_SIZE = 100
# JSON files that describe a set and hold no row of it.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "configuration.json", "config.json"}


def find_modelscope_files(name: str) -> list[WebFile]:
    """The files that an `ms:` name stands for, by path. What has a data file's ending is one, the rest are folders.

    Raises:
        UserError: the name is not complete, there is no such set or file, nothing readable is in it, or no answer.
    """
    found = re.fullmatch(r"ms:([\w.-]+/[\w.-]+?)(?:/(.+?))?/*", name)
    if found is None:
        raise UserError(f"{name}: expected ms:owner/name, ms:owner/name/folder or ms:owner/name/folder/file.jsonl")
    set_name, path = found.group(1), found.group(2) or ""
    if data_suffix(path) in DATA_SUFFIXES:
        return [_find_file(set_name, path)]
    listed = sorted(_files_below(set_name, path, name))
    paths = [file for file in listed if _holds_data(PurePosixPath(file))]
    if not paths:
        there = f"it holds {_some(listed)}" if listed else "no file is there"
        raise UserError(f"{name}: nothing in it can be read: {there}, expected JSON, CSV, Parquet, text or archives")
    left_out = [file for file in listed if not _holds_data(PurePosixPath(file))]
    print(f"{name}: {len(paths)} files with data; not read: {_some(left_out) if left_out else 'none'}")
    return [_find_file(set_name, file) for file in paths]


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _find_file(set_name: str, path: str) -> WebFile:
    url = f"{_HUB}/{set_name}/repo?Revision={_REVISION}&FilePath={quote(path, safe='')}"
    return find_web_file(url, name=f"ms:{set_name}/{path}")


def _holds_data(path: PurePosixPath) -> bool:
    """Not a picture, a card, a script, a hidden file, or a file that describes the set."""
    is_hidden = any(part.startswith(".") for part in path.parts)
    return data_suffix(path.name) in DATA_SUFFIXES and path.name not in _DESCRIPTIONS and not is_hidden


def _files_below(set_name: str, folder: str, name: str) -> Iterator[str]:
    """The paths of all files below a folder: the hub lists one folder at a time."""
    for path, kind in _entries(set_name, folder, name).items():
        if kind == "tree":
            yield from _files_below(set_name, path, name)
        else:
            yield path


def _entries(set_name: str, folder: str, name: str) -> dict[str, str]:
    """Path → `blob` or `tree` of what lies directly in a folder: page after page, until one brings nothing new."""
    entries: dict[str, str] = {}
    page = 0
    while True:
        page += 1
        listed = _page(set_name, folder, page, name)
        new = {path: kind for path, kind in listed.items() if path not in entries and _is_below(path, folder)}
        if not new:
            return entries
        entries |= new


def _is_below(path: str, folder: str) -> bool:
    parent = PurePosixPath(folder)
    return parent in PurePosixPath(path).parents or not folder


def _page(set_name: str, folder: str, page: int, name: str) -> dict[str, str]:
    """The entries of one page."""
    asked = {"Revision": _REVISION, "Root": folder, "PageSize": _PAGE_SIZE, "PageNumber": page}
    url = f"{_HUB}/{set_name}/repo/tree?{urlencode(asked)}"
    answer = _json(url, name)
    data = answer.get("Data")
    if answer.get("Code", 200) != 200 or data is None:
        raise UserError(f"{name}: no such set or folder on ModelScope (or it is private): {_message(answer)}")
    try:
        return {str(file["Path"]): str(file["Type"]) for file in data["Files"] or []}
    except (KeyError, TypeError) as error:
        raise UserError(f"{name}: the hub answers with no list of files; fetch them, and give their paths") from error


def _json(url: str, name: str) -> dict[str, Any]:
    """An answer of the hub as an object."""
    import requests

    if_missing = "no such set or folder on ModelScope (or it is private): check its name"
    with request(WebFile(url, name, None, None), if_missing=if_missing) as response:
        try:
            answer = response.json()
        except ValueError as error:
            raise UserError(f"{name}: the hub answers with no JSON; check the network, or try again later") from error
        except requests.RequestException as error:
            raise UserError(f"{name}: {in_words(error)} while the hub listed its files; try again later") from error
    return answer if isinstance(answer, dict) else {}


def _message(answer: dict[str, Any]) -> str:
    """What the hub says about it, as a part of a line."""
    return " ".join(str(answer.get("Message") or "it gives no reason").split())[:200]

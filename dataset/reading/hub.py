"""Sets of the Hugging Face hub, and files of them, by a short name.

hf:owner/name                    its `train` split
hf:owner/name/config:split       another configuration or split
hf:owner/name/folder/file.jsonl  one file of it, read by ourselves (so `HF_ENDPOINT` may point at a mirror)
hf:/home/me/set:split            a folder laid out like a set of the hub
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.reading.cutting import BLOCK_BYTES, MAX_ROW_BYTES, value_blocks
from dataset.reading.formats import DATA_SUFFIXES, Block, Reject, data_suffix
from dataset.reading.web import WebFile, find_web_file
from model.errors import UserError
from model.files import canonical_json, sha256_of_file, sha256_of_text

if TYPE_CHECKING:
    from datasets import IterableDataset

_HUB_SECONDS = 10.0


@dataclass(frozen=True)
class HubSplit:
    """One split of a set, streamed by the `datasets` library at a fixed revision; no code of the set is run."""

    name: str  # as in Input.name: hf:owner/name/config:train
    path: str  # owner/name, or a folder
    config: str | None
    split: str
    revision: str | None  # the commit of a set on the hub; of a folder none

    def blocks(self, block_bytes: int = BLOCK_BYTES, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[Block]:
        """Its rows; the line is the row's number. UserError: the hub does not answer, or the set is damaged."""
        return value_blocks(self.name, self._values(max_row_bytes), block_bytes)

    def fingerprint(self) -> str:
        """Of the revision on the hub; of a folder's files themselves."""
        version = _folder_hash(Path(self.path)) if self.revision is None else self.revision
        return sha256_of_text(canonical_json([self.path, self.config, self.split, version]))

    def _values(self, max_row_bytes: int) -> Iterator[tuple[int, Any, int]]:
        rows = iter(_load(self.path, self.config, self.revision, self.name)[self.split])
        line = 0
        while True:
            line += 1
            with _one_line_errors(f"{self.name}: row {line}"):
                row = next(rows, None)
            if row is None:
                return
            size = _size(row)
            if size > max_row_bytes:
                detail = f"{size} bytes, at most {max_row_bytes} are read"
                yield line, Reject(self.name, line, "too long", detail), 0
            else:
                yield line, row, size


def find_hub_file(name: str) -> WebFile | None:
    """The file that an `hf:` name stands for; None when it stands for a whole set.

    Raises:
        UserError: the hub may not be asked, or what `find_web_file` raises.
    """
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)/(.+)", name)
    if found is None or data_suffix(name) not in DATA_SUFFIXES:
        return None
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it, or give a local file")
    url = hf_hub_url(found.group(1), found.group(2), repo_type="dataset")
    return find_web_file(url, build_hf_headers(), name)


def find_hub_split(name: str) -> HubSplit:
    """The split that an `hf:` name stands for: `train` when it names none.

    Raises:
        UserError: the name is not complete, there is no such set or split, or the hub cannot be reached.
    """
    rest, _, split = name.removeprefix("hf:").partition(":")
    config: str | None = None
    revision: str | None = None
    if rest.startswith(("/", "./", "../", "~")):
        path = str(Path(rest).expanduser())
        if not Path(path).is_dir():
            raise UserError(f"{name}: no such folder {path}")
    else:
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?", rest)
        if found is None:
            raise UserError(f"{name}: expected hf:owner/name, hf:owner/name/config:split, or hf:/a/local/folder")
        path, config = found.group(1), found.group(2)
        revision = _revision(path, name)
    splits = _load(path, config, revision, name)
    if not split:
        split = "train" if "train" in splits or len(splits) > 1 else next(iter(splits))
    if split not in splits:
        raise UserError(f"{name}: no split {split!r}; choose one of its own: hf:{rest}:{{{','.join(splits)}}}")
    return HubSplit(f"hf:{rest}:{split}", path, config, split, revision)


def _revision(path: str, name: str) -> str:
    """The commit that the hub's main branch is at: asked once, then every reading is of the same bytes."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{name}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it, or give local files")
    with _one_line_errors(name):
        sha = HfApi().dataset_info(path, timeout=_HUB_SECONDS).sha
    assert sha is not None, "the hub answers with the commit"
    return sha


@lru_cache(maxsize=64)
def _load(path: str, config: str | None, revision: str | None, name: str) -> "dict[str, IterableDataset]":
    """The splits of a set, nothing of which is read yet."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import datasets

    # Its own messages and ours would say the same thing twice.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    with _one_line_errors(name):
        return dict(datasets.load_dataset(path, config, revision=revision, streaming=True))


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """What `datasets` and the libraries below it raise, as one line."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the httpx that it uses

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{what}: accept its terms on its page on the hub, then log in: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{what}: no such set on the hub (or it is private: hf auth login)") from error
    except (ConnectionError, HTTPError) as error:
        detail = str(error).strip().split("\n")[0]
        raise UserError(
            f"{what}: the hub cannot be reached ({detail}); check the network (HF_ENDPOINT names a mirror), "
            f"or download the files and give their paths"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, pa.ArrowException, DatasetsError) as error:
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{what}: cannot be read by the datasets library ({detail})") from error


def _size(value: Any) -> int:
    """About how many bytes a value takes as JSON."""
    if isinstance(value, (str, bytes)):
        return len(value) + 2
    if isinstance(value, dict):
        return sum(len(key) + _size(item) + 4 for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value)) + 2
    return 8


def _folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha256_of_text(canonical_json([[str(file.relative_to(folder)), sha256_of_file(file)] for file in files]))

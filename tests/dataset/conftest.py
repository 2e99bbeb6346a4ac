"""A small tokenizer and packed sets made by hand, for the tests of this room."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.building.pipeline import build_packed_set
from dataset.building.settings import BuildSettings
from dataset.packing import PackedSet, PackedSetWriter, Piece
from model.tokenizer import ChatTokenizer
from tests.dataset.local_server import Server
from tests.tiny_model import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return byte_tokenizer(256)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizer.save(folder)
    return folder


WriteSet = Callable[..., PackedSet]


@pytest.fixture
def write_set(tokenizer: ChatTokenizer, tmp_path: Path) -> WriteSet:
    """Write rows of pieces as a packed set and open it."""

    def write(rows: list[list[Piece]], kind: str = "pretrain", max_seq_len: int = 16) -> PackedSet:
        folder = tmp_path / f"{kind}_set"
        folder.mkdir()
        writer = PackedSetWriter(folder, kind, max_seq_len, tokenizer.vocab_size, pad_token_id=1)
        for row in rows:
            writer.add_row(row)
        writer.finish(tokenizer, {"name": folder.name, "sources": ["a", "b", "c"], "num_documents": len(rows)})
        return PackedSet.open(folder)

    return write


@pytest.fixture
def piece() -> Callable[..., Piece]:
    """A piece of the given tokens."""

    def make(tokens: list[int], mask: list[bool] | None = None, source: int = 0, role: int = 0) -> Piece:
        return Piece(np.array(tokens, np.uint16), None if mask is None else np.array(mask), source, role)

    return make


@pytest.fixture
def settings_for(tokenizer: ChatTokenizer, tmp_path: Path) -> Callable[..., BuildSettings]:
    """Settings that pack one file as the set "mine", without worker processes."""

    def make(path: Path, kind: str = "pretrain", **changes: Any) -> BuildSettings:
        return replace(
            BuildSettings(
                kind=kind,
                name="mine",
                data_path=(str(path),),
                tokenizer=tokenizer,
                packed_dir=tmp_path / "packed",
                max_seq_len=64,
                num_workers=0,
            ),
            **changes,
        )

    return make


@pytest.fixture
def build(settings_for: Callable[..., BuildSettings], tmp_path: Path) -> Callable[..., PackedSet]:
    """Write rows to a file, pack it, open the set."""

    def run(rows: list[dict[str, Any]] | None = None, kind: str = "pretrain", **changes: Any) -> PackedSet:
        path = tmp_path / "raw" / "rows.jsonl"
        path.parent.mkdir(exist_ok=True)
        if rows is not None:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        settings = settings_for(path, kind, **changes)
        build_packed_set(settings)
        return PackedSet.open(settings.packed_dir / settings.name, kind=kind, verify=True)

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server that ends with the test."""
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()

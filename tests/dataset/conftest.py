"""A small tokenizer and packed sets made by hand, for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset.packing import PackedSet, PackedSetWriter, Piece
from model.tokenizer import ChatTokenizer
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

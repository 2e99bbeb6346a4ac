"""What tests ask packed sets."""

from pathlib import Path

from dataset.packing import ROLE_CONTINUATION, PackedSet
from model.files import sha256_of_file


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    return {str(file.relative_to(folder)): sha256_of_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def documents_of(packed: PackedSet) -> list[list[int]]:
    """Every document's tokens, put together again from the rows."""
    documents: list[list[int]] = []
    for segment in packed.segments:
        start, length = int(segment["start"]), int(segment["length"])
        tokens = packed.tokens[segment["row"], start : start + length].tolist()
        if segment["role"] == ROLE_CONTINUATION:
            assert documents[-1][-1] == tokens[0]
            documents[-1] += tokens[1:]
        else:
            documents.append(tokens)
    return documents

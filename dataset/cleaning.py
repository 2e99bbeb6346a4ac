"""What is left out of a set although it can be read: small rules with a threshold each, every drop counted.

`RULES` is the whole table. A rule sees one document (a text, or a conversation's contents together); the
exact duplicates need a memory of what came before, so they are a class of their own.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

DUPLICATE = "duplicate"


@dataclass(frozen=True)
class CleaningRules:
    """Thresholds; 0 means no limit."""

    min_chars: int = 1
    max_chars: int = 0
    keep_duplicates: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For meta.json and the fingerprint of a build."""
        return asdict(self)


# Name of the rule → does it drop this text? In this order: the first that says yes is counted.
RULES: dict[str, Callable[[str, CleaningRules], bool]] = {
    "empty": lambda text, rules: not text,
    "too few characters": lambda text, rules: len(text) < rules.min_chars,
    "too many characters": lambda text, rules: 0 < rules.max_chars < len(text),
}


def clean_text(text: str) -> str:
    """A document without the white space around it (what is inside stays as it is)."""
    return text.strip()


def failed_rule(text: str, rules: CleaningRules) -> str | None:
    """The name of the first rule that drops this text, None when it stays."""
    for name, drops in RULES.items():
        if drops(text, rules):
            return name
    return None


def digest(text: str) -> bytes:
    """16 bytes that tell documents apart, for duplicates and for the validation split."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def in_validation(document_digest: bytes, val_share: float) -> bool:
    """Whether a document belongs to the validation set.

    Decided by the document alone: the same text falls on the same side in every build, in whatever file and
    order it comes, so a set that grows never moves a document from validation to training.
    """
    return int.from_bytes(document_digest[:8], "big") < val_share * 2**64


class SeenBefore:
    """Finds exact duplicates: the first of equal documents stays. Costs about 100 bytes a document."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __call__(self, document_digest: bytes) -> bool:
        if document_digest in self._digests:
            return True
        self._digests.add(document_digest)
        return False

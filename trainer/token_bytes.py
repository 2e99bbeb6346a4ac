"""How many bytes of text each token stands for: what makes losses of models with other tokenizers comparable.

Bits a byte = total loss in nats / ln 2 / bytes of the text that was predicted.
"""

import json
import re
from typing import Any

import numpy as np

from model.tokenizer import ChatTokenizer

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how SentencePiece's byte fallback spells one
_SPACE = "\u2581"  # ▁, how SentencePiece spells a space


def token_byte_lengths(tokenizer: ChatTokenizer) -> np.ndarray | None:
    """[vocab] int64: the bytes (UTF-8) of each token's text; control tokens and unused ids have none.

    Exact for byte-level vocabularies, where a token may be a part of a character: over a text they add up to its
    bytes. So they do in SentencePiece's manner (▁ for a space, perhaps <0x0A> for a byte), but for characters that the
    vocabulary lacks. Where a tokenizer puts a space before a text's first word, that counts too. None for other
    vocabularies: WordPiece, for one, keeps no spaces.
    """
    definition = json.loads(tokenizer.files["tokenizer.json"])
    kinds = _kinds(definition.get("decoder"))
    is_byte_level = "ByteLevel" in kinds
    if not is_byte_level and not _writes_spaces_as_marks(definition):
        return None
    lengths = np.zeros(tokenizer.vocab_size, np.int64)
    for text, token_id in _vocabulary(definition["model"]):
        if is_byte_level:
            lengths[token_id] = len(text)  # one character a byte
        elif "ByteFallback" in kinds and _BYTE.fullmatch(text):
            lengths[token_id] = 1
        else:
            lengths[token_id] = len(text.replace(_SPACE, " ").encode())
    for text, token_id in tokenizer.special_tokens.items():
        # Some tokenizers add runs of white space: those are text, as it stands.
        lengths[token_id] = 0 if text in tokenizer.control_tokens else len(text.encode())
    return lengths


def _vocabulary(model: dict[str, Any]) -> list[tuple[str, int]]:
    """The entries of a model's vocabulary, as tokenizer.json spells them; Unigram's ids are their places."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return list(vocabulary.items())
    return [(entry[0], number) for number, entry in enumerate(vocabulary)]


def _kinds(part: Any) -> set[str]:
    """The types of a part of tokenizer.json, and of those that it is a sequence of."""
    if not isinstance(part, dict):
        return set()
    inner = [*part.get("decoders", []), *part.get("normalizers", []), *part.get("pretokenizers", [])]
    return {str(part.get("type"))}.union(*map(_kinds, inner))


def _writes_spaces_as_marks(definition: dict[str, Any]) -> bool:
    """Whether spaces are written as ▁, by a Metaspace or (Llama 2) by a replacement."""
    decoder = definition.get("decoder")
    if "Metaspace" in _kinds(decoder):
        return True
    return "Replace" in _kinds(decoder) and _SPACE in json.dumps(decoder, ensure_ascii=False)

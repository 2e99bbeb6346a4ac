"""How an answer is chosen and when it ends: a dataclass that is a script's flags and a request's fields.

It lives apart from the arithmetic in `inference/sampling.py`, so that `--help` need not load torch.
"""

import math
from dataclasses import dataclass, field

from model.errors import UserError


def _help(text: str) -> dict[str, str]:
    return {"help": text}  # shown by --help


@dataclass(frozen=True)
class SamplingParams:
    """Validated sampling settings; raises UserError with the flag's name for an impossible value."""

    max_new_tokens: int = field(default=256, metadata=_help("most tokens of an answer"))
    temperature: float = field(
        default=0.7, metadata=_help("0 always takes the most probable token; higher is more varied")
    )
    top_k: int = field(default=0, metadata=_help("choose among the k most probable tokens only; 0 = all"))
    top_p: float = field(
        default=0.9, metadata=_help("keep the most probable tokens that together reach this probability")
    )
    min_p: float = field(
        default=0.0, metadata=_help("drop tokens below this share of the most probable token's probability")
    )
    repetition_penalty: float = field(
        default=1.0, metadata=_help("above 1: tokens already in the text become less likely")
    )
    no_repeat_ngram_size: int = field(default=0, metadata=_help("no run of this many tokens may occur twice; 0 = off"))
    stop: list[str] = field(default_factory=list, metadata=_help("strings that end an answer (and are not part of it)"))
    stop_token_ids: list[int] | None = field(
        default=None, metadata=_help("token ids that end an answer; default: the model's own")
    )
    seed: int | None = field(default=1337, metadata=_help("same seed, same answers; -1: other ones each time"))

    def __post_init__(self) -> None:
        self._require("max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        # Written so that NaN, which compares false with everything, is refused as well.
        self._require("temperature", 0 <= self.temperature < math.inf, "0 (most probable token) or above")
        self._require("top_k", self.top_k >= 0, "0 (all tokens) or above")
        self._require("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self._require("min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        self._require("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 (1 = off)")
        self._require("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 (off) or above")
        self._require("stop", all(self.stop), "strings with at least one character")
        if self.stop_token_ids is not None:
            self._require("stop_token_ids", all(token >= 0 for token in self.stop_token_ids), "token ids")

    def _require(self, name: str, is_possible: bool, expected: str) -> None:
        if not is_possible:
            raise UserError(f"--{name}: found {getattr(self, name)!r}, expected {expected}")

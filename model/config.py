"""The architecture of a model, as one frozen dataclass that validates itself.

The words are those of the Llama family. `LMConfig` knows its presets, its parameter count and the arithmetic
that one token of training costs; it imports no torch, so a script can check it before any device is touched.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from model.errors import UserError

# What each kind of RoPE scaling needs besides its name, and what it may have.
ROPE_SCALING_TYPES = {
    "linear": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
_OPTIONAL_SCALING_KEYS = {"yarn": {"beta_fast", "beta_slow", "attention_factor"}}


@dataclass(frozen=True)
class LMConfig:
    """Architecture of a dense or mixture-of-experts decoder.

    `head_dim`, `hidden_dim` and `moe_hidden_dim` follow from the other values when they are left at None;
    after construction they are numbers. Raises UserError, with what to change, for an architecture that
    cannot be.
    """

    dim: int = 512  # width of the residual stream
    n_layers: int = 8
    n_heads: int = 16  # query heads
    n_kv_heads: int = 8  # key/value heads, each shared by n_heads / n_kv_heads query heads
    head_dim: int | None = None  # default dim / n_heads
    vocab_size: int = 6400
    hidden_dim: int | None = None  # width of the SwiGLU; default 8/3 of dim, rounded up to multiple_of
    multiple_of: int = 64
    norm_eps: float = 1e-5
    max_seq_len: int = 512  # longest context the model is meant for, in tokens
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None  # {"rope_type": "linear" | "yarn" | "llama3", "factor": ...}
    sliding_window: int | None = None  # each token sees this many tokens, itself included
    dropout: float = 0.0
    tie_embeddings: bool = True  # the output head is the embedding matrix
    qk_norm: bool = False  # RMSNorm on each query and key head, before RoPE
    qkv_bias: bool = False  # bias on q, k, v
    attention_bias: bool = False  # bias on q, k, v and o
    mlp_bias: bool = False
    use_moe: bool = False
    n_routed_experts: int = 4
    n_shared_experts: int = 2
    num_experts_per_tok: int = 2
    moe_hidden_dim: int | None = None  # width of one expert; default hidden_dim
    norm_topk_prob: bool = True  # the chosen experts' weights sum to one
    aux_loss_alpha: float = 0.01  # weight of the load-balancing loss
    seq_aux: bool = True  # balance within each sequence, not over the whole batch

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "max_seq_len"):
            self._require_at_least(name, 1)
        self._check_kinds()
        if self.head_dim is None and self.dim % self.n_heads:
            raise UserError(
                f"n_heads: found {self.n_heads}, which does not divide dim {self.dim}; change one of them, "
                "or say how wide a head is with head_dim"
            )
        self._fill("head_dim", self.dim // self.n_heads)
        rounded_up = -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of
        self._fill("hidden_dim", rounded_up)
        self._fill("moe_hidden_dim", self.hidden_dim)
        self._validate()

    def _fill(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)  # the dataclass is frozen for everyone else

    def _require_at_least(self, name: str, smallest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise UserError(f"{name}: found {value!r}, expected a whole number of at least {smallest}")

    def _check_kinds(self) -> None:
        """Switches are True or False and measures are numbers, whatever a file or a caller said."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, bool) and not isinstance(value, bool):
                raise UserError(f"{each.name}: found {value!r}, expected true or false")
            if isinstance(each.default, float) and not _is_number(value):
                raise UserError(f"{each.name}: found {value!r}, expected a number")

    def _validate(self) -> None:
        assert self.head_dim is not None
        self._require_at_least("head_dim", 2)
        self._require_at_least("hidden_dim", 1)
        if self.n_heads % self.n_kv_heads:
            raise UserError(
                f"n_kv_heads: found {self.n_kv_heads}, which does not divide n_heads {self.n_heads}; "
                f"choose one of {_divisors(self.n_heads)}"
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim: found {self.head_dim}, expected an even number (RoPE rotates pairs); "
                "change dim, n_heads or head_dim"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout: found {self.dropout}, expected a share from 0 to below 1")
        for name in ("norm_eps", "rope_theta"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}: found {getattr(self, name)}, expected a number above 0")
        if self.sliding_window is not None:
            self._require_at_least("sliding_window", 1)
        if self.rope_scaling is not None:
            _check_rope_scaling(self.rope_scaling)
        if self.use_moe:
            self._validate_moe()

    def _validate_moe(self) -> None:
        self._require_at_least("n_routed_experts", 1)
        self._require_at_least("n_shared_experts", 0)
        self._require_at_least("moe_hidden_dim", 1)
        self._require_at_least("num_experts_per_tok", 1)
        if self.num_experts_per_tok > self.n_routed_experts:
            raise UserError(
                f"num_experts_per_tok: found {self.num_experts_per_tok}, expected from 1 to "
                f"n_routed_experts {self.n_routed_experts}"
            )
        # Renormalising a single weight makes it 1 whatever the router says: its gradient would be zero.
        if self.num_experts_per_tok == 1 and self.norm_topk_prob and self.n_routed_experts > 1:
            raise UserError(
                "num_experts_per_tok: 1 with norm_topk_prob gives the router no gradient; "
                "pass --norm_topk_prob false, or choose 2 experts a token"
            )
        if self.aux_loss_alpha < 0:
            raise UserError(f"aux_loss_alpha: found {self.aux_loss_alpha}, expected 0 or more")

    def unexportable_reason(self) -> str | None:
        """Why no stock architecture of transformers carries this model, or None when one does."""
        square_heads = self.head_dim is not None and self.head_dim * self.n_heads == self.dim
        if self.use_moe:
            if self.qk_norm and self.n_shared_experts:
                return "qk_norm with shared experts: set n_shared_experts 0 or qk_norm false"
            if not self.norm_topk_prob and self.n_shared_experts:
                return "norm_topk_prob false with shared experts: set it true or n_shared_experts 0"
            if not self.norm_topk_prob and not self.qk_norm:
                return "norm_topk_prob false without qk_norm: set one of them true"
            if not self.qk_norm and not square_heads:
                return "experts and a head_dim other than dim / n_heads: set qk_norm true or change head_dim"
            if self.qkv_bias or self.mlp_bias or self.sliding_window:
                return "mixture of experts with qkv_bias, mlp_bias or sliding_window: leave them off"
        elif self.qk_norm and (self.mlp_bias or self.sliding_window):
            return "qk_norm with mlp_bias or sliding_window: leave one of them off"
        elif self.sliding_window and (self.qkv_bias or self.attention_bias or self.mlp_bias):
            return "sliding_window with biases: leave one of them off"
        return None

    # ---- sizes ---------------------------------------------------------------------------------------------

    def num_parameters(self, active_only: bool = False) -> int:
        """Number of parameters; with `active_only`, those that one token passes through (MoE)."""
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * self._layer_parameters(active_only) + self.dim

    def _layer_parameters(self, active_only: bool) -> int:
        assert self.head_dim is not None and self.hidden_dim is not None and self.moe_hidden_dim is not None
        query, key_value = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * (query + key_value)
        if self.qkv_bias or self.attention_bias:
            attention += query + 2 * key_value
        if self.attention_bias:
            attention += self.dim
        if self.qk_norm:
            attention += 2 * self.head_dim
        if not self.use_moe:
            feed_forward = _swiglu_parameters(self.dim, self.hidden_dim, self.mlp_bias)
        else:
            num_routed = self.num_experts_per_tok if active_only else self.n_routed_experts
            shared = self.n_shared_experts * self.moe_hidden_dim
            feed_forward = self.dim * self.n_routed_experts
            feed_forward += num_routed * _swiglu_parameters(self.dim, self.moe_hidden_dim, bias=False)
            feed_forward += _swiglu_parameters(self.dim, shared, self.mlp_bias) if shared else 0
        return attention + feed_forward + 2 * self.dim

    def flops_per_token(self, seq_len: int | None = None) -> float:
        """Floating-point operations to train on one token, forward and backward: 6·N + 12·L·T·d.

        N counts the matrices that a token is multiplied with, the output head included and the embedding
        look-up not; T is the length of a row and d the width of all heads (PaLM, arXiv:2204.02311, appendix
        B).
        """
        assert self.head_dim is not None
        matrices = self.num_parameters(active_only=True)
        if not self.tie_embeddings:
            matrices -= self.vocab_size * self.dim
        attention = self.n_layers * (seq_len or self.max_seq_len) * self.n_heads * self.head_dim
        return 6.0 * matrices + 12.0 * attention

    # ---- presets and plain values --------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A named architecture, with single values changed; raises UserError for an unknown name."""
        if name not in PRESETS:
            raise UserError(f"--preset: found {name!r}, expected one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def with_changes(self, **changes: Any) -> Self:
        """A copy with other values, validated again; widths that followed from the old ones stay."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. A missing or unknown key is an error: nothing is guessed."""
        names = {each.name for each in fields(cls)}
        if missing := sorted(names - values.keys()):
            raise UserError(f"configuration: lacks {', '.join(missing)}")
        if unknown := sorted(values.keys() - names):
            raise UserError(f"configuration: has unknown keys {', '.join(unknown)} (a newer version's file?)")
        return cls(**values)


# 26,878,464 parameters without its experts; shared by `small` and `moe`.
_SMALL = {"dim": 512, "n_layers": 8, "n_heads": 16, "n_kv_heads": 8}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "max_seq_len": 256},
    "small": _SMALL,
    "base": {"dim": 768, "n_layers": 16, "n_heads": 16, "n_kv_heads": 8},  # 108,749,568
    "moe": {**_SMALL, "use_moe": True},  # 113,402,368, of which a token meets 78,799,360
}


def _swiglu_parameters(dim: int, hidden_dim: int, bias: bool) -> int:
    return 3 * dim * hidden_dim + (2 * hidden_dim + dim if bias else 0)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _check_rope_scaling(scaling: Mapping[str, Any]) -> None:
    kind = scaling.get("rope_type")
    if kind not in ROPE_SCALING_TYPES:
        known = ", ".join(ROPE_SCALING_TYPES)
        raise UserError(f"rope_scaling: found rope_type {kind!r}, expected one of {known}")
    needed, optional = ROPE_SCALING_TYPES[kind], _OPTIONAL_SCALING_KEYS.get(kind, set())
    if missing := sorted(needed - scaling.keys()):
        raise UserError(f"rope_scaling: rope_type {kind} needs {', '.join(missing)}")
    if unknown := sorted(scaling.keys() - needed - optional - {"rope_type"}):
        raise UserError(f"rope_scaling: rope_type {kind} does not know {', '.join(unknown)}")
    for name in sorted(scaling.keys() - {"rope_type"}):
        if not _is_number(scaling[name]) or scaling[name] <= 0:
            raise UserError(f"rope_scaling: found {name} {scaling[name]!r}, expected a number above 0")
    if scaling["factor"] < 1:
        raise UserError(f"rope_scaling: found factor {scaling['factor']}, expected 1 or more")
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise UserError("rope_scaling: high_freq_factor must be above low_freq_factor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

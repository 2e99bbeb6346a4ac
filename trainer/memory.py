"""How much memory a training step needs, worked out from the architecture before anything is made.

What autograd keeps between the forward and the backward pass is counted operation by operation, as model/decoder.py,
norm.py, moe.py and head.py are written; tests/trainer/test_memory.py compares the count with what PyTorch really keeps.
"""

from dataclasses import dataclass, replace
from typing import Any

from model.config import LMConfig
from model.device import Precision
from model.head import MAX_LOGIT_ELEMENTS
from trainer.settings import TrainSettings

MEBIBYTE = 2**20
# What a process occupies beside tensors: Python, PyTorch and the other libraries; on a GPU the CUDA context.
# The CPU's was measured (torch, transformers, matplotlib loaded, threads started). The GPU's is a usual size: this
# estimate was never checked on a GPU.
BASE_BYTES = {"cpu": 450 * MEBIBYTE, "cuda": 600 * MEBIBYTE, "mps": 600 * MEBIBYTE}
# What an allocator keeps besides, as a share of what the forward pass keeps and of the gradients: tensors that come and
# go leave gaps that others do not fit into. The CPU's shares (glibc's) were fitted to the peaks of measured runs, the
# GPU's are guesses.
GAPS = {"cpu": (0.6, 0.9), "cuda": (0.1, 0.1), "mps": (0.1, 0.1)}


@dataclass(frozen=True)
class Setup:
    """What decides how much memory a run needs, except the number of rows.

    Args:
        config: the architecture.
        training: of it, the optimizer and the z-loss count.
        precision: the device and the dtype of matrix products.
        seq_len: tokens the model sees in a row.
        document_mask: attention gets a mask [batch, 1, seq, seq].
        gradient_checkpointing: each layer keeps only its input.
        world_size: processes that train together.
        zero_stage: of DeepSpeed, 1 to 3; 0 without it.
        offload: the optimizer's state is in the CPU's memory.
        adapter_parameters: of an adapter, which is trained alone; None when the whole model is.
        reference_parameters: of a second, frozen model that is held beside (preference training).
    """

    config: LMConfig
    training: TrainSettings
    precision: Precision
    seq_len: int
    document_mask: bool = False
    gradient_checkpointing: bool = False
    world_size: int = 1
    zero_stage: int = 0
    offload: bool = False
    adapter_parameters: int | None = None  # when only these are trained, beside a frozen model
    reference_parameters: int = 0

    @property
    def held_parameters(self) -> int:
        """Parameters in memory."""
        return self.config.num_parameters() + (self.adapter_parameters or 0) + self.reference_parameters

    @property
    def trained_parameters(self) -> int:
        """Parameters with a gradient."""
        return self.config.num_parameters() if self.adapter_parameters is None else self.adapter_parameters

    @property
    def uses_muon(self) -> bool:
        """Whether the layers' matrices are Muon's: by default they are, except under DeepSpeed and of an adapter."""
        by_default = self.training.optimizer == "auto" and not self.zero_stage
        return self.adapter_parameters is None and (by_default or self.training.optimizer == "muon")

    @property
    def wide_bytes(self) -> int:
        """Bytes of an element of weights, residual stream and norms."""
        return self.precision.weights.itemsize

    @property
    def compute_bytes(self) -> int:
        """Bytes of an element that matrix products read and write."""
        return self.precision.compute.itemsize

    @property
    def is_mixed(self) -> bool:
        """Whether autocast makes 16-bit copies."""
        return self.compute_bytes < self.wide_bytes


def zero_of(configuration: dict[str, Any] | None) -> tuple[int, bool]:
    """Stage, and whether the optimizer's state is on the CPU, of a DeepSpeed configuration; (0, False) without one."""
    zero = (configuration or {}).get("zero_optimization", {})
    offload = zero.get("offload_optimizer") or {}
    return int(zero.get("stage", 0)), offload.get("device", "none") != "none"


@dataclass(frozen=True)
class RunMemory:
    """Memory of one process by part, in bytes. The parts do not all exist at the same time: see `peak`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass of one micro-batch
    logits: int  # the head's logits and their gradients, or what one layer's backward pass needs when that is more
    update: int  # passing matrices of the optimizer's update (Muon)
    saving: int  # the copy that is written to the disk while training goes on
    base: int
    gradients_stay: bool  # they are there during the forward pass already
    device_type: str = "cpu"
    host: int = 0  # on a GPU: what this process has in the CPU's memory

    @property
    def peak(self) -> int:
        """The most that is there at once.

        Gradients appear while the backward pass gives activations back, so without accumulation the two are never
        there together.
        """
        of_activations, of_gradients = GAPS[self.device_type]
        forward = (1 + of_activations) * self.activations + self.logits + of_gradients * self.gradients
        forward += self.gradients if self.gradients_stay else 0
        passing = max(int(forward), self.gradients + self.update)
        return self.base + self.weights + self.optimizer + self.saving + passing


def memory_of_run(setup: Setup, micro_batch: int, accumulation_steps: int = 1) -> RunMemory:
    """Memory of a process that trains on `micro_batch` rows at a time."""
    device_type = setup.precision.device.type
    weights, trained = setup.held_parameters * setup.wide_bytes, setup.trained_parameters * setup.wide_bytes
    optimizer, saved_optimizer = _optimizer_state(setup), optimizer_state_bytes(setup)
    saving = trained + saved_optimizer  # whole tensors, of which only the main process makes a copy
    stage, world_size, on_cpu = setup.zero_stage, setup.world_size, device_type == "cpu"
    offloaded = 0 if on_cpu or not setup.offload else optimizer
    memory = RunMemory(
        weights=weights // (world_size if stage >= 3 else 1),
        gradients=trained // (world_size if stage >= 2 else 1),
        optimizer=optimizer - offloaded,
        activations=_activations(setup, micro_batch),
        logits=max(_logits(setup, micro_batch), _layer_backward(setup, micro_batch)),
        update=_update(setup),
        saving=saving if on_cpu else 0,
        base=BASE_BYTES[device_type],
        # DDP's and DeepSpeed's gradients live in buckets that stay.
        gradients_stay=accumulation_steps > 1 or world_size > 1 or stage > 0,
        device_type=device_type,
    )
    return memory if on_cpu else replace(memory, host=BASE_BYTES["cpu"] + saving + offloaded)


# ---- weights and optimizer ------------------------------------------------------------------------------------


def optimizer_state_bytes(setup: Setup) -> int:
    """The optimizer's state as it is saved: two moments a parameter (AdamW), one for Muon's matrices."""
    muon = muon_parameters(setup.config) if setup.uses_muon else 0
    return (2 * setup.trained_parameters - muon) * setup.wide_bytes


def _optimizer_state(setup: Setup) -> int:
    """The optimizer's state in one process."""
    if not setup.zero_stage:
        return optimizer_state_bytes(setup)
    # DeepSpeed's optimizer also has its own flat copy of the weights that this rank updates.
    own_weights = setup.trained_parameters * 4
    return (optimizer_state_bytes(setup) + own_weights) // setup.world_size


def muon_parameters(config: LMConfig) -> int:
    """Parameters that Muon updates: the layers' matrices, without the router and the stacked experts."""
    return sum(count * rows * columns for (rows, columns), count in _matrix_shapes(config).items())


def _matrix_shapes(config: LMConfig) -> dict[tuple[int, int], int]:
    """How many matrices of each shape Muon updates together."""
    dim, query, key_value, width = _widths(config)
    shapes: dict[tuple[int, int], int] = {}
    each_layer = [(query, dim), (key_value, dim), (key_value, dim), (dim, query)]
    each_layer += [(width, dim), (width, dim), (dim, width)] if width else []
    for shape in each_layer:
        shapes[shape] = shapes.get(shape, 0) + config.n_layers
    return shapes


def _update(setup: Setup) -> int:
    """What Muon makes and gives back: all matrices of one shape are orthogonalised together (trainer/muon.py)."""
    if not setup.uses_muon:
        return 0  # the fused AdamW changes its tensors in place
    wide = setup.wide_bytes
    narrow = 2 if setup.precision.device.type == "cuda" and wide == 4 else wide
    largest = 0
    for (rows, columns), count in _matrix_shapes(setup.config).items():
        # The directions and their stack; x before and after an iteration, and on CUDA its 16-bit beginning.
        of_matrices = 2 * wide + 2 * narrow + (narrow if narrow < wide else 0)
        side = min(rows, columns)
        largest = max(largest, count * (rows * columns * of_matrices + 2 * side * side * narrow))
    return largest


# ---- activations ----------------------------------------------------------------------------------------------


def _widths(config: LMConfig) -> tuple[int, int, int, int]:
    """Widths of the residual stream, all query heads, all key heads, and the feed-forward that every token meets."""
    assert config.head_dim is not None and config.hidden_dim is not None and config.moe_hidden_dim is not None
    width = config.n_shared_experts * config.moe_hidden_dim if config.use_moe else config.hidden_dim
    return config.dim, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, width


def _activations(setup: Setup, rows: int) -> int:
    """What autograd keeps of the whole forward pass, the logits apart."""
    config, wide, compute = setup.config, setup.wide_bytes, setup.compute_bytes
    tokens, layers = rows * setup.seq_len, config.n_layers
    assert config.head_dim is not None
    # The final norm, the head's input (under autocast a copy of it), and the rotary tables.
    outside = tokens * config.dim * (wide + compute) + 2 * tokens * config.head_dim * 4
    outside += tokens * config.dim * wide if config.dropout else 0
    layer = _layer(setup, rows)
    copies, head_copy = _weight_copies(setup)
    if setup.gradient_checkpointing:
        inputs = layers * tokens * config.dim * wide
        # One layer at a time is computed again. The 16-bit copies live as long as autocast's cache: the forward pass.
        return outside + inputs + layer + layers * copies + head_copy
    return outside + layers * (layer + copies) + head_copy


def _weight_copies(setup: Setup) -> tuple[int, int]:
    """The 16-bit copies of a layer's matrices and of the head that autocast makes and autograd keeps."""
    if not setup.is_mixed:
        return 0, 0
    config = setup.config
    embeddings = config.vocab_size * config.dim
    all_layers = config.num_parameters() - embeddings * (1 if config.tie_embeddings else 2)
    return all_layers // config.n_layers * setup.compute_bytes, embeddings * setup.compute_bytes


def _layer(setup: Setup, rows: int) -> int:
    """What autograd keeps of one decoder layer."""
    config, wide, compute = setup.config, setup.wide_bytes, setup.compute_bytes
    dim, query, key_value, width = _widths(config)
    tokens = rows * setup.seq_len
    # Both norms keep the normalised input. Their output is what the matrices read: in 16 bits each makes its own copy.
    copies_of_input = 3 if setup.is_mixed else 1
    total = tokens * dim * (2 * wide + copies_of_input * compute)
    # Rotated queries and keys, values, what attention gives, and one log-sum-exp a head.
    total += tokens * (2 * query + 2 * key_value) * compute + tokens * config.n_heads * 4
    if config.qk_norm:
        total += tokens * (query + key_value) * wide
    total += _masks_and_dropout(setup, rows)
    if config.use_moe:
        total += _experts(setup, tokens)
        copies_of_input = 2 if setup.is_mixed else 0  # without autocast it is the router's input, counted there
    else:
        copies_of_input = 2 if setup.is_mixed else 1
    # SwiGLU keeps its input, gate, up, silu(gate) and their product.
    return total + tokens * (copies_of_input * dim + 4 * width) * compute


def _masks_and_dropout(setup: Setup, rows: int) -> int:
    config, seq = setup.config, setup.seq_len
    dim, query, key_value, _ = _widths(config)
    if config.dropout:
        # No kernel drops attention: it is written out, with scores, probabilities and what is dropped.
        scores = 3 * rows * config.n_heads * seq * seq * 4
        return scores + rows * seq * (2 * dim + 2 * (query - key_value)) * setup.wide_bytes
    # Each layer's attention makes numbers of the mask. A window alone is the same for all rows.
    is_windowed = config.sliding_window is not None and config.sliding_window < seq
    masks = rows if setup.document_mask else int(is_windowed)
    return masks * seq * seq * setup.compute_bytes


def _experts(setup: Setup, tokens: int) -> int:
    """The router and the routed experts."""
    config, compute = setup.config, setup.compute_bytes
    assert config.moe_hidden_dim is not None
    pairs, num_experts = tokens * config.num_experts_per_tok, config.n_routed_experts
    router = tokens * (config.dim + 6 * num_experts) * setup.wide_bytes  # its input, scores, and the balance's terms
    # Gathered inputs, gate and up, silu(gate), their product, the results; and three indices.
    return router + pairs * (2 * config.dim + 4 * config.moe_hidden_dim) * compute + pairs * 3 * 8


def _logits(setup: Setup, rows: int) -> int:
    """The head at the backward pass's start: log-probabilities and two gradients; with a z-loss one more."""
    vocab_size = setup.config.vocab_size
    tokens = min(rows * setup.seq_len, max(1, MAX_LOGIT_ELEMENTS // vocab_size))
    copies = 3 + (1 if setup.training.z_loss else 0)
    head_gradient = vocab_size * setup.config.dim * setup.wide_bytes
    return tokens * vocab_size * max(4, setup.wide_bytes) * copies + head_gradient


def _layer_backward(setup: Setup, rows: int) -> int:
    """Gradients that pass through the last layer while nearly all activations are still there."""
    config, compute = setup.config, setup.compute_bytes
    dim, _, _, width = _widths(config)
    tokens = rows * setup.seq_len
    total = tokens * (2 * dim * setup.wide_bytes + 3 * width * compute)
    if config.use_moe:
        assert config.moe_hidden_dim is not None
        pairs = tokens * config.num_experts_per_tok
        # Each expert's gradient is a matrix of its own before they are stacked.
        stacked = config.n_routed_experts * 3 * dim * config.moe_hidden_dim * (setup.wide_bytes + compute)
        total += pairs * (2 * dim + 4 * config.moe_hidden_dim) * compute + stacked
    return total

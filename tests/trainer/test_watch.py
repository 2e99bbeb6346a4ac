import cmath
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import LMConfig
from model.decoder import CausalLM
from tests.tiny_model import tiny_model
from trainer.optimizer import build_optimizers, set_learning_rate
from trainer.settings import TrainSettings
from trainer.stability import Stability
from trainer.watch import SAMPLE_SIZE, UpdateRatio, expert_shares, measure_layers

# Two rows: three documents; two documents and padding, whose positions restart too.
SEGMENTS = [[0] * 5 + [1] * 4 + [2] * 3, [0] * 3 + [1] * 6 + [-1] * 3]
POSITIONS = [[*range(5), *range(4), *range(3)], [*range(3), *range(6), *range(3)]]


def packed_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "segment_ids": torch.tensor(SEGMENTS), "position_ids": torch.tensor(POSITIONS)}


def turned(head: np.ndarray, position: int, theta: float) -> np.ndarray:
    """RoPE as a product of complex numbers."""
    half = len(head) // 2
    turns = [cmath.exp(1j * position * theta ** (-2 * index / len(head))) for index in range(half)]
    points = (head[:half] + 1j * head[half:]) * np.array(turns)
    return np.concatenate([points.real, points.imag])


@torch.no_grad()
def slow_layers(
    model: CausalLM, batch: dict[str, torch.Tensor], document_mask: bool
) -> tuple[list[float], list[float]]:
    """The decoder once more, pair by pair."""
    config = model.config
    segments = SEGMENTS if document_mask else [[0] * 12] * 2
    positions = POSITIONS if document_mask else [list(range(12))] * 2
    window = config.sliding_window or 12
    group = config.n_heads // config.n_kv_heads
    hidden = model.model.embed_tokens(batch["input_ids"])
    variances, largest = [], []
    for layer in cast(list[Any], model.model.layers):
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        heads = (2, 12, -1, attention.head_dim)
        queries = attention.q_norm(attention.q_proj(normed).view(heads)).numpy()
        keys = attention.k_norm(attention.k_proj(normed).view(heads)).numpy()
        values = attention.v_proj(normed).view(heads).numpy()
        mixed = np.zeros_like(queries)
        seen = [0.0]
        for row in range(2):
            for head in range(config.n_heads):
                for i in range(12):
                    query = turned(queries[row, i, head], positions[row][i], config.rope_theta)
                    logits = {}
                    for j in range(max(0, i - window + 1), i + 1):
                        if segments[row][i] == segments[row][j]:
                            key = turned(keys[row, j, head // group], positions[row][j], config.rope_theta)
                            logits[j] = float(query @ key) / math.sqrt(attention.head_dim)
                    total = sum(math.exp(logit) for logit in logits.values())
                    for j, logit in logits.items():
                        mixed[row, i, head] += math.exp(logit) / total * values[row, j, head // group]
                    if SEGMENTS[row][i] >= 0:
                        seen += [abs(logit) for logit in logits.values()]
        hidden = hidden + attention.o_proj(torch.tensor(mixed).flatten(2))
        normed = layer.post_attention_layernorm(hidden)
        fed = layer.mlp(normed, batch["segment_ids"])[0] if config.use_moe else layer.mlp(normed)
        hidden = hidden + fed
        real = np.array([hidden[row, i].numpy() for row in range(2) for i in range(12) if SEGMENTS[row][i] >= 0])
        variances.append(float(np.var(real)))
        largest.append(max(seen))
    return variances, largest


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"qk_norm": True, "n_kv_heads": 4},
        {"n_kv_heads": 1, "qkv_bias": True, "head_dim": 6},
        {"sliding_window": 3},
        {"use_moe": True, "n_layers": 3},
    ],
)
def test_layers_are_measured_as_by_a_slow_decoder(architecture, document_mask, monkeypatch):
    monkeypatch.setattr("trainer.watch._QUERIES_AT_ONCE", 5)  # several parts, the last one shorter
    model = tiny_model(**architecture)
    if architecture.get("qk_norm"):
        for layer in model.model.layers:
            torch.nn.init.uniform_(layer.self_attn.q_norm.weight, 0.5, 2.0)
    batch = packed_batch()
    layers = measure_layers(model, batch, document_mask)
    variances, largest = slow_layers(model, batch, document_mask)
    torch.testing.assert_close(layers.hidden_variance, torch.tensor(variances, dtype=torch.float64))
    # The tables of cosines are made in float64 from frequencies of float32.
    torch.testing.assert_close(layers.attention_max, torch.tensor(largest, dtype=torch.float64), rtol=1e-6, atol=0)


def test_padding_says_nothing():
    model, batch = tiny_model(), packed_batch()
    layers = measure_layers(model, batch, True)
    batch["input_ids"][1, 9:] = 7
    other = measure_layers(model, batch, True)
    assert torch.equal(layers.hidden_variance, other.hidden_variance)
    assert torch.equal(layers.attention_max, other.attention_max)


def test_measuring_leaves_no_trace():
    model = tiny_model(dropout=0.5).train()
    model.model.layers[1].eval()  # part of a model may be frozen
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    first, second = (measure_layers(model, packed_batch(), True) for _ in range(2))
    assert torch.equal(first.hidden_variance, second.hidden_variance)  # no dropout
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not first.hidden_variance.requires_grad


def test_hooks_go_when_the_forward_pass_fails():
    model = tiny_model().train()
    batch = packed_batch()
    batch["input_ids"][0, 0] = 10**6
    with pytest.raises(IndexError):
        measure_layers(model, batch, True)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_measures_under_autocast_are_those_of_full_precision_to_two_digits():
    model, batch = tiny_model(dtype=torch.float32), packed_batch()
    exact = measure_layers(model, batch, True)
    rough = measure_layers(model, batch, True, torch.autocast("cpu", torch.bfloat16))
    assert rough.attention_max.dtype == torch.float32
    assert not torch.equal(exact.attention_max, rough.attention_max)
    torch.testing.assert_close(rough.attention_max, exact.attention_max, rtol=0.05, atol=0)
    torch.testing.assert_close(rough.hidden_variance, exact.hidden_variance, rtol=0.05, atol=0)


def test_update_ratio_is_that_of_all_matrices():
    model = tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ratio = UpdateRatio(model)
    ratio.before()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    chosen = [(name, each) for name, each in model.named_parameters() if each.ndim == 2 and each.requires_grad]
    changed = sum(float((each - old[name]).detach().square().sum()) for name, each in chosen)
    length = sum(float(old[name].square().sum()) for name, _ in chosen)
    measured = ratio.after()
    assert measured is not None and measured.shape == ()
    assert measured.item() == pytest.approx(math.sqrt(changed / length), rel=1e-9)


def test_of_a_large_matrix_the_middle_is_looked_at():
    matrix = torch.nn.Parameter(torch.ones(5, 2 * SAMPLE_SIZE, dtype=torch.bfloat16))
    module = torch.nn.Module()
    module.register_parameter("matrix", matrix)
    ratio = UpdateRatio(module)
    ratio.before()
    with torch.no_grad():
        matrix[2] *= 1.5
        matrix[0] *= 100
    measured = ratio.after()
    assert measured is not None and measured.item() == pytest.approx(0.5)


def test_where_weights_are_partitioned_there_is_no_ratio():
    module = torch.nn.Linear(2, 2)
    for parameter in module.parameters():
        parameter.data = torch.empty(0)
        parameter.ds_id = 1
    ratio = UpdateRatio(module)
    ratio.before()
    assert ratio.after() is None


def test_expert_shares_sum_to_one():
    shares = expert_shares(torch.tensor([[3, 1], [0, 0]]))
    assert shares.tolist() == [[0.75, 0.25], [0.0, 0.0]]


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """So small products are slower on several threads, much slower when the machine is busy."""
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


def train_small_model(optimizer: str, learning_rate: float, planted: bool) -> tuple[list[float], list[int], list[int]]:
    """Learn runs of letters for 115 steps; the losses, the steps with an alarm, the steps of a spike."""
    torch.manual_seed(0)
    model = CausalLM(
        LMConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=16, multiple_of=16, max_seq_len=24)
    )
    optimizers = build_optimizers(model, TrainSettings(optimizer=optimizer, learning_rate=learning_rate))  # type: ignore[arg-type]
    random, ratio, stability = np.random.default_rng(0), UpdateRatio(model), Stability()
    losses, alarmed, spiked = [], [], []
    for step in range(115):
        rows = [np.repeat(random.integers(16, size=25), random.integers(1, 6, size=25))[:25] for _ in range(8)]
        tokens = torch.tensor(np.stack(rows))
        loss = model(tokens[:, :-1], targets=tokens[:, 1:]).token_losses.mean()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        is_disturbed = planted and 100 <= step < 110
        set_learning_rate(optimizers, learning_rate * min(1, (step + 1) / 20) * (30 if is_disturbed else 1))
        ratio.before()
        for each in optimizers:
            each.step()
            each.zero_grad()
        measured = ratio.after()
        assert measured is not None
        verdict = stability.observe_step(step, loss.item(), grad_norm, measured.item())
        losses.append(loss.item())
        alarmed += [step] if verdict.alarms else []
        spiked += [step] if verdict.is_spike else []
    return losses, alarmed, spiked


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 1e-2), ("muon", 1e-2)])
def test_a_planted_divergence_is_announced_before_the_loss_leaves(optimizer, learning_rate):
    _, alarmed, spiked = train_small_model(optimizer, learning_rate, planted=False)
    assert (alarmed, spiked) == ([], [])
    losses, alarmed, spiked = train_small_model(optimizer, learning_rate, planted=True)
    before = np.array(losses[50:100])
    left = next(step for step in range(100, 115) if losses[step] > before.mean() + 6 * before.std())
    assert alarmed[0] == 100 < left
    assert left <= spiked[0] <= left + 3

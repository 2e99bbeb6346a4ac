"""The mixture of experts against a plain loop over tokens, and its balancing loss against its formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model import moe
from model.config import LMConfig
from model.decoder import CausalLM, SwiGLU
from model.moe import MoEFeedForward, grouped_linear

DIM, HIDDEN = 16, 12


def random_layer(**changes) -> MoEFeedForward:
    torch.manual_seed(0)
    settings = {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2, **changes}
    config = LMConfig(dim=DIM, n_heads=2, n_kv_heads=1, moe_hidden_dim=HIDDEN, use_moe=True, **settings)
    width = config.n_shared_experts * HIDDEN
    layer = MoEFeedForward(config, SwiGLU(DIM, width, bias=False) if width else None)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def slow_forward(layer: MoEFeedForward, hidden_states: Tensor) -> Tensor:
    """One token after the other, one expert after the other; each shared expert as a network of its own."""
    config, output = layer.config, torch.zeros_like(hidden_states)
    for row, position in torch.cartesian_prod(*map(torch.arange, hidden_states.shape[:2])).tolist():
        token = hidden_states[row, position]
        scores = (layer.router.weight @ token).softmax(0)
        chosen = sorted(range(config.n_routed_experts), key=lambda expert: -scores[expert])
        chosen = chosen[: config.num_experts_per_tok]
        total = sum(scores[expert] for expert in chosen) if config.norm_topk_prob else 1.0
        result = torch.zeros(DIM, dtype=token.dtype)
        for expert in chosen:
            gate, up = (
                layer.experts.gate_up_proj[expert][:HIDDEN],
                layer.experts.gate_up_proj[expert][HIDDEN:],
            )
            inner = nn.functional.silu(gate @ token) * (up @ token)
            result = result + scores[expert] / total * (layer.experts.down_proj[expert] @ inner)
        for number in range(config.n_shared_experts):
            part = slice(number * HIDDEN, (number + 1) * HIDDEN)
            shared = layer.shared_experts
            assert isinstance(shared, SwiGLU)
            inner = nn.functional.silu(shared.gate_proj.weight[part] @ token) * (shared.up_proj.weight[part] @ token)
            result = result + shared.down_proj.weight[:, part] @ inner
        output[row, position] = result
    return output


def slow_balance(scores: Tensor, top_k: int) -> Tensor:
    """Σ_i f_i·P_i of one sequence's `scores` [tokens, experts], by counting."""
    num_tokens, num_experts = scores.shape
    total = torch.zeros((), dtype=scores.dtype)
    for expert in range(num_experts):
        times = sum(expert in scores[token].topk(top_k).indices.tolist() for token in range(num_tokens))
        total = total + times * num_experts / (top_k * num_tokens) * scores[:, expert].mean()
    return total


class TestForward:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"num_experts_per_tok": 1, "norm_topk_prob": False},
            {"num_experts_per_tok": 3, "norm_topk_prob": False},
            {"num_experts_per_tok": 4},
            {"n_shared_experts": 0},
            {"n_shared_experts": 1, "n_routed_experts": 7, "num_experts_per_tok": 3},
            {"n_routed_experts": 1, "num_experts_per_tok": 1},
        ],
    )
    def test_equals_a_plain_loop(self, changes):
        layer = random_layer(**changes)
        hidden_states = torch.randn(2, 5, DIM, dtype=torch.float64, requires_grad=True)
        found, _ = layer(hidden_states, None)
        expected = slow_forward(layer, hidden_states)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        sources = [hidden_states, *layer.parameters()]
        weights = torch.randn_like(found)
        for mine, theirs in zip(
            torch.autograd.grad((found * weights).sum(), sources),
            torch.autograd.grad((expected * weights).sum(), sources, allow_unused=True),
            strict=True,
        ):
            # An expert that the loop never met has no gradient there and a zero one here.
            torch.testing.assert_close(
                mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-9, atol=1e-12
            )

    @given(num_tokens=st.integers(1, 40), experts=st.integers(1, 9), data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_any_size(self, num_tokens, experts, data):
        top_k = data.draw(st.integers(1, experts))
        layer = random_layer(n_routed_experts=experts, num_experts_per_tok=top_k, norm_topk_prob=top_k > 1)
        hidden_states = torch.randn(1, num_tokens, DIM, dtype=torch.float64)
        with torch.no_grad():
            found, statistics = layer(hidden_states, None)
            torch.testing.assert_close(found, slow_forward(layer, hidden_states), rtol=1e-10, atol=1e-12)
        assert statistics.expert_load.sum() == num_tokens * top_k

    def test_all_tokens_to_one_expert(self):
        """The worst imbalance: every other expert's gradient is zero, not None, and nothing is dropped."""
        layer = random_layer(num_experts_per_tok=1, norm_topk_prob=False)
        with torch.no_grad():
            layer.router.weight.zero_()
            layer.router.weight[2] = 5.0
        hidden_states = torch.rand(3, 50, DIM, dtype=torch.float64) + 0.1
        output, statistics = layer(hidden_states, None)
        assert statistics.expert_load.tolist() == [0, 0, 150, 0]
        torch.testing.assert_close(output, slow_forward(layer, hidden_states), rtol=1e-10, atol=1e-12)
        output.square().sum().backward()
        for weight in (layer.experts.gate_up_proj, layer.experts.down_proj):
            assert weight.grad is not None
            assert [bool(each.abs().sum() > 0) for each in weight.grad] == [False, False, True, False]

    def test_an_extreme_router_stays_finite(self):
        layer = random_layer(num_experts_per_tok=2).float()
        with torch.no_grad():
            layer.router.weight.mul_(1e4)
        hidden_states = torch.randn(2, 8, DIM, requires_grad=True)
        output, statistics = layer(hidden_states, None)
        (output.sum() + statistics.balance_loss).backward()
        assert output.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())

    def test_router_is_wide_under_autocast(self):
        """Two experts whose scores differ by less than bf16 can tell: the better one is chosen."""
        layer = random_layer(num_experts_per_tok=1, norm_topk_prob=False, n_routed_experts=2).float()
        with torch.no_grad():
            layer.router.weight[0] = 1.0
            layer.router.weight[1] = 1.0 + 2**-12
        hidden_states = torch.ones(1, 6, DIM)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, statistics = layer(hidden_states, None)
        assert statistics.expert_load.tolist() == [0, 6]


class TestRouterGradient:
    @pytest.mark.parametrize("qk_norm", [False, True])
    @pytest.mark.parametrize(
        ("top_k", "norm_topk_prob"),
        [(1, False), (2, False), (3, False), (4, False), (2, True), (3, True), (4, True)],
    )
    def test_from_the_language_loss_alone(self, top_k, norm_topk_prob, qk_norm):
        torch.manual_seed(0)
        config = LMConfig(
            dim=32, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=50, use_moe=True, moe_hidden_dim=16,
            num_experts_per_tok=top_k, norm_topk_prob=norm_topk_prob, qk_norm=qk_norm,
        )  # fmt: skip
        model = CausalLM(config)
        input_ids = torch.randint(0, 50, (2, 30))
        model(input_ids, targets=input_ids).token_losses.mean().backward()
        for layer in model.model.layers:
            gradient = layer.mlp.router.weight.grad
            assert gradient.norm() > 1e-7
            assert (gradient.norm(dim=-1) > 0).all(), "each expert's row learns"


class TestBalanceLoss:
    def scores(self, layer: MoEFeedForward, hidden_states: Tensor) -> Tensor:
        return (hidden_states @ layer.router.weight.T).softmax(-1)

    @pytest.mark.parametrize("top_k", [1, 2, 4])
    def test_each_row_is_a_sequence(self, top_k):
        layer = random_layer(num_experts_per_tok=top_k, norm_topk_prob=top_k > 1)
        hidden_states = torch.randn(3, 9, DIM, dtype=torch.float64)
        _, statistics = layer(hidden_states, None)
        expected = sum(slow_balance(row, top_k) for row in self.scores(layer, hidden_states))
        torch.testing.assert_close(statistics.balance_loss, expected)

    def test_segments_and_padding(self):
        layer = random_layer()
        hidden_states = torch.randn(3, 10, DIM, dtype=torch.float64)
        segment_ids = torch.tensor([[0] * 4 + [1] * 6, [0] * 3 + [1] + [2] * 2 + [-1] * 4, [-1] * 10])
        _, statistics = layer(hidden_states, segment_ids)
        scores = self.scores(layer, hidden_states)
        pieces = [scores[0, :4], scores[0, 4:], scores[1, :3], scores[1, 3:4], scores[1, 4:6]]
        torch.testing.assert_close(statistics.balance_loss, sum(slow_balance(piece, 2) for piece in pieces))
        picked = torch.cat(pieces).topk(2).indices.flatten()
        assert statistics.expert_load.tolist() == torch.bincount(picked, minlength=4).tolist()

    def test_packed_equals_one_a_padded_row(self):
        """Also through the whole model with a document mask: values and gradients."""
        torch.manual_seed(0)
        config = LMConfig(dim=32, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=50, use_moe=True, moe_hidden_dim=16)
        model = CausalLM(config).double()
        lengths = [5, 1, 8]
        documents = [torch.randint(0, 50, (length,)) for length in lengths]
        packed = {
            "input_ids": torch.cat(documents)[None],
            "segment_ids": torch.repeat_interleave(torch.tensor([0, 1, 2]), torch.tensor(lengths))[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        }
        padded = {
            "input_ids": nn.utils.rnn.pad_sequence(documents, batch_first=True),
            "segment_ids": nn.utils.rnn.pad_sequence(
                [torch.zeros(length, dtype=torch.long) for length in lengths],
                batch_first=True,
                padding_value=-1,
            ),
        }
        outcomes = []
        for batch in (packed, padded):
            model.zero_grad()
            output = model(**batch, document_mask=True, logits="none")
            output.balance_loss.backward()
            gradients = [layer.mlp.router.weight.grad.clone() for layer in model.model.layers]
            outcomes.append([output.balance_loss, output.expert_load.double(), *gradients])
        for first, second in zip(*outcomes, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)

    def test_over_the_whole_batch(self):
        layer = random_layer(seq_aux=False)
        hidden_states = torch.randn(2, 7, DIM, dtype=torch.float64)
        segment_ids = torch.tensor([[0] * 3 + [1] * 4, [0] * 5 + [-1] * 2])
        _, statistics = layer(hidden_states, segment_ids)
        tokens = self.scores(layer, hidden_states)[segment_ids >= 0]
        torch.testing.assert_close(statistics.balance_loss, 3 * slow_balance(tokens, 2))  # three sequences

    @pytest.mark.parametrize("seq_aux", [True, False])
    def test_perfect_balance_is_one_and_the_worst_is_the_number_of_experts(self, seq_aux):
        layer = random_layer(seq_aux=seq_aux, num_experts_per_tok=1, norm_topk_prob=False)
        hidden_states = torch.zeros(1, 8, DIM, dtype=torch.float64)
        hidden_states[0, :, :4] = torch.eye(4).repeat(2, 1)
        with torch.no_grad():
            layer.router.weight.zero_()
            layer.router.weight[:, :4] = 50 * torch.eye(4)
        assert layer(hidden_states, None)[1].balance_loss.item() == pytest.approx(1.0)
        worst = torch.zeros_like(hidden_states)
        worst[..., 0] = 1.0
        assert layer(worst, None)[1].balance_loss.item() == pytest.approx(4.0)

    @pytest.mark.parametrize("seq_aux", [True, False])
    def test_nothing_but_padding_is_zero(self, seq_aux):
        layer = random_layer(seq_aux=seq_aux)
        _, statistics = layer(torch.randn(2, 3, DIM, dtype=torch.float64), torch.full((2, 3), -1))
        assert statistics.balance_loss.item() == 0.0
        assert statistics.expert_load.sum() == 0

    def test_descending_it_balances(self):
        """What the loss is for: a lopsided router becomes even when only this loss is minimised."""
        torch.manual_seed(0)
        layer = random_layer(num_experts_per_tok=1, norm_topk_prob=False).float()
        hidden_states = torch.randn(4, 64, DIM)
        with torch.no_grad():
            layer.router.weight[0] += 0.3 * hidden_states.mean((0, 1)) * DIM
            layer.router.weight[0] += 1.0
        optimizer = torch.optim.Adam([layer.router.weight], lr=0.02)
        before = layer(hidden_states, None)[1].expert_load
        for _ in range(200):
            optimizer.zero_grad()
            layer(hidden_states, None)[1].balance_loss.backward()
            optimizer.step()
        after = layer(hidden_states, None)[1].expert_load
        assert after.std() < 0.5 * before.std()


def loop_over_experts(tokens: Tensor, weight: Tensor, num_tokens: Tensor) -> Tensor:
    """The reference: row by row, each with its expert's matrix."""
    expert_of_row = [expert for expert, count in enumerate(num_tokens.tolist()) for _ in range(count)]
    return torch.stack([weight[expert] @ token for expert, token in zip(expert_of_row, tokens, strict=True)])


class TestGroupedLinear:
    @pytest.mark.parametrize("counts", [[3, 5, 2], [0, 10, 0], [10, 0, 0], [0, 0, 10], [1, 1, 8]])
    def test_equals_row_by_row(self, counts):
        tokens = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
        found = grouped_linear(tokens, weight, torch.tensor(counts))
        expected = loop_over_experts(tokens, weight, torch.tensor(counts))
        torch.testing.assert_close(found, expected)
        mine = torch.autograd.grad(found.square().sum(), [tokens, weight])
        theirs = torch.autograd.grad(expected.square().sum(), [tokens, weight])
        torch.testing.assert_close(mine, theirs)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_grouped_product_and_its_fallback_agree(self, dtype, monkeypatch):
        """The feature switched on and off. On a CPU the product works too, though it is not faster."""
        if not hasattr(nn.functional, "grouped_mm"):
            pytest.skip("this torch has no grouped_mm: only the fallback exists")
        tokens = torch.randn(24, 16, dtype=dtype, requires_grad=True)
        weight = torch.randn(3, 8, 16, dtype=dtype, requires_grad=True)
        results = []
        for is_supported in (True, False):
            monkeypatch.setattr(moe, "supports_grouped_mm", lambda *_, answer=is_supported: answer)
            output = grouped_linear(tokens, weight, torch.tensor([7, 0, 17]))
            gradients = torch.autograd.grad(output.float().square().sum(), [tokens, weight])
            results.append([output, *gradients])
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        for grouped, looped in zip(*results, strict=True):
            torch.testing.assert_close(grouped, looped, rtol=tolerance, atol=tolerance * 10)

    def test_odd_widths_never_reach_the_grouped_product(self, monkeypatch):
        """Its rows must start at multiples of 16 bytes; 5 floats do not."""
        monkeypatch.setattr(moe, "supports_grouped_mm", lambda *_: True)
        tokens, weight = torch.randn(6, 5), torch.randn(2, 3, 5)
        found = grouped_linear(tokens, weight, torch.tensor([2, 4]))
        torch.testing.assert_close(found, loop_over_experts(tokens, weight, torch.tensor([2, 4])))

    def test_feature_test(self, monkeypatch):
        moe.supports_grouped_mm.cache_clear()
        try:
            assert not moe.supports_grouped_mm("cpu", torch.float32), "a loop there as well"
            # Where the product exists, the same question asked of float64 is answered by trying it out.
            monkeypatch.delattr(nn.functional, "grouped_mm", raising=False)
            moe.supports_grouped_mm.cache_clear()
            assert not moe.supports_grouped_mm("cuda", torch.float32)
        finally:
            moe.supports_grouped_mm.cache_clear()

    def test_trial_tells_which_dtypes_work(self):
        """The trial behind the feature test, on the CPU's own implementation."""
        if not hasattr(nn.functional, "grouped_mm"):
            pytest.skip("this torch has no grouped_mm")
        assert moe._try_grouped_mm("cpu", torch.float32)
        assert moe._try_grouped_mm("cpu", torch.bfloat16)
        assert not moe._try_grouped_mm("cpu", torch.float64)

    def test_under_autocast(self):
        tokens = torch.randn(6, 8, requires_grad=True)
        weight = torch.randn(2, 4, 8, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = grouped_linear(tokens, weight, torch.tensor([2, 4]))
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()
        assert tokens.grad.dtype == weight.grad.dtype == torch.float32

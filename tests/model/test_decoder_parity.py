"""The decoder against the stock architectures of transformers with the same weights."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.stock_models import stock_model
from model.config import LMConfig
from model.decoder import CausalLM
from tests.model.random_models import LLAMA3, MOE, YARN, assert_close, random_ids, random_model

VARIANTS = {
    "plain": {},
    "multi_head": {"n_kv_heads": 6},
    "multi_query": {"n_kv_heads": 1},
    "untied": {"tie_embeddings": False},
    "wide_heads": {"head_dim": 20},
    "qkv_bias": {"qkv_bias": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "qk_norm": {"qk_norm": True, "head_dim": 12},
    "qk_norm_bias": {"qk_norm": True, "qkv_bias": True},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN},
    "yarn_options": {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": LLAMA3},
    "theta": {"rope_theta": 1e6, "norm_eps": 1e-6},
}


class TestAgainstTransformers:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_logits_and_loss(self, variant):
        model = random_model(**VARIANTS[variant])
        twin = stock_model(model)
        input_ids = random_ids(3, 40)
        with torch.no_grad():
            expected = twin(input_ids, labels=input_ids)
            output = model(input_ids)
            losses = model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses
        assert expected.logits.std() > 0.1, "logits that are all alike prove nothing"
        assert_close(output.logits, expected.logits)
        assert losses.mean().item() == pytest.approx(expected.loss.item(), abs=1e-5)

    @pytest.mark.parametrize("variant", ["plain", "attention_bias", "mlp_bias", "untied", "qk_norm"])
    def test_gradients(self, variant):
        model = random_model(**VARIANTS[variant])
        twin = stock_model(model)
        input_ids = random_ids(2, 30)
        twin(input_ids, labels=input_ids).loss.backward()
        model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses.mean().backward()
        expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
        assert expected.keys() == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)

    def test_qkv_bias_is_qwen2(self):
        model = random_model(qkv_bias=True)
        config = model.config
        twin = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config.vocab_size,
                hidden_size=config.dim,
                intermediate_size=config.hidden_dim,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=config.n_kv_heads,
                rms_norm_eps=config.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                tie_word_embeddings=True,
            )
        ).eval()
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert_close(model(random_ids(2, 40)).logits, twin(random_ids(2, 40)).logits)

    @pytest.mark.parametrize("window", [1, 5, 40, 64])
    def test_sliding_window_is_mistral(self, window):
        model = random_model(sliding_window=window)
        twin = stock_model(model, attention="eager")
        with torch.no_grad():
            assert_close(model(random_ids(2, 40)).logits, twin(random_ids(2, 40)).logits)

    def test_a_window_changes_the_logits(self):
        wide, narrow = random_model(), random_model(sliding_window=5)
        with torch.no_grad():
            difference = (wide(random_ids(1, 40)).logits - narrow(random_ids(1, 40)).logits).abs().amax((0, 2))
        assert difference[:5].max() < 1e-5 < difference[5:].max()

    def test_float64_end_to_end(self):
        """transformers' norms and RoPE work in float32, so those are replaced by plain float64 ones."""
        model = random_model().double()
        twin = stock_model(model)
        twin.model.rotary_emb = _PlainRotary(model.config)
        for module in twin.modules():
            for name, child in module.named_children():
                if type(child).__name__ == "LlamaRMSNorm":
                    norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                    norm.weight = child.weight
                    setattr(module, name, norm)
        with torch.no_grad():
            found, expected = model(random_ids(2, 60)).logits, twin(random_ids(2, 60)).logits
        assert found.dtype == torch.float64
        assert_close(found, expected, relative=1e-12)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"num_experts_per_tok": 3, "n_shared_experts": 1},
            {"n_shared_experts": 0},
            {"tie_embeddings": False},
            {"n_routed_experts": 1, "num_experts_per_tok": 1},
        ],
    )
    def test_moe_is_granite(self, changes):
        model = random_model(**{**MOE, **changes})
        _assert_same_as_twin(model)

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"num_experts_per_tok": 1, "norm_topk_prob": False},
            {"norm_topk_prob": False},
            {"head_dim": 10},
        ],
    )
    def test_moe_with_qk_norm_is_qwen3_moe(self, changes):
        model = random_model(**{**MOE, "qk_norm": True, "n_shared_experts": 0, **changes})
        _assert_same_as_twin(model)

    @pytest.mark.slow
    @pytest.mark.parametrize("preset", ["tiny", "small", "moe"])
    def test_presets(self, preset):
        torch.manual_seed(0)
        model = CausalLM(LMConfig.preset(preset)).eval()
        _assert_same_as_twin(model, relative=1e-5)


class _PlainRotary(nn.Module):
    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        assert config.head_dim is not None
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        self.frequencies = (1.0 / config.rope_theta**exponents).double()

    def forward(self, hidden_states: Tensor, position_ids: Tensor, **_) -> tuple[Tensor, Tensor]:
        angles = torch.cat([position_ids[..., None].double() * self.frequencies] * 2, dim=-1)
        return angles.cos(), angles.sin()


def _assert_same_as_twin(model: CausalLM, relative: float = 1e-5) -> None:
    twin = stock_model(model)
    input_ids = random_ids(2, 40)
    with torch.no_grad():
        expected = twin(input_ids).logits
        assert_close(model(input_ids).logits, expected, relative)
        losses = model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses
    loss = nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    assert losses.mean().item() == pytest.approx(loss.item(), abs=1e-5)

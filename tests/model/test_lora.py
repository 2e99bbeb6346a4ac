"""LoRA's layers against their formulas written out slowly, and what must stay as it was. Against PEFT:
tests/model/test_peft_format.py."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint import stored_parameters, weights_of
from model.decoder import CausalLM
from model.errors import UserError
from model.lora import (
    LoRAConfig,
    LoRALinear,
    adapter_parameters,
    attach_lora,
    default_targets,
    detach_lora,
    load_lora,
    merge_lora,
    possible_targets,
    unmerge_lora,
)
from tests.model.random_adapters import ARCHITECTURES, put_on
from tests.model.random_models import MOE, assert_close, random_ids, random_model

KINDS = {
    **{name: (changes, {}) for name, changes in ARCHITECTURES.items()},
    "dora": ({"attention_bias": True}, {"use_dora": True}),
    "rslora": ({}, {"use_rslora": True, "rank": 16, "alpha": 3.0}),
    "rank_1": ({}, {"rank": 1}),
    "few": ({}, {"targets": ("q_proj", "down_proj")}),
    "experts": (MOE, {"targets": ("experts",)}),
    "head": ({"tie_embeddings": False}, {"targets": ("v_proj", "lm_head")}),
    "rows_tied": ({}, {"token_ids": (90, 3, 96)}),
    "rows_untied": ({"tie_embeddings": False}, {"token_ids": (90, 3, 96)}),
    "rows_and_head": ({"tie_embeddings": False}, {"targets": ("v_proj", "lm_head"), "token_ids": (90, 3)}),
}


def logits_of(model: CausalLM) -> Tensor:
    with torch.no_grad():
        logits = model(random_ids(2, 30)).logits
    assert logits is not None
    return logits


def values_of(model: CausalLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_values(model: CausalLM, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def backward(model: CausalLM, input_ids: Tensor) -> None:
    model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses.mean().backward()


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


class TestLifecycle:
    def test_a_new_adapter_changes_nothing(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        expected = logits_of(model)
        attach_lora(model, LoRAConfig(**{"targets": default_targets(model), **lora}))
        if "token_ids" in lora:  # the logits of these are a product of their own, which may add up in another order
            assert_close(logits_of(model), expected, relative=1e-6)
        else:
            assert torch.equal(logits_of(model), expected)

    def test_merged_it_computes_the_same(self, kind):
        architecture, lora = kind
        model = random_model(**architecture).double()
        before = logits_of(model)
        put_on(model, **lora)
        expected = logits_of(model)
        assert (expected - before).abs().max() > 1e-2, "an adapter that does nothing proves nothing"
        merge_lora(model)
        assert model.adapter is None and not adapter_parameters(model)
        assert_close(logits_of(model), expected, relative=1e-11)

    def test_unmerged_the_base_is_as_it_was(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        expected = values_of(model)
        put_on(model, **lora)
        before: dict[str, torch.Tensor] = {}
        merge_lora(model, before=before)
        # A tied head is the embedding, and comes once.
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, expected[name])}
        assert changed and changed == before.keys()
        unmerge_lora(model, before)
        assert_same_values(model, expected)

    def test_detached_the_base_is_as_it_was(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        expected, types = values_of(model), [type(module) for module in model.modules()]
        put_on(model, **lora)
        detach_lora(model)
        assert_same_values(model, expected)
        assert [type(module) for module in model.modules()] == types
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert model.adapter is None
        tied = model.lm_head.weight is model.model.embed_tokens.weight
        assert tied == model.config.tie_embeddings

    def test_another_may_follow(self):
        model = random_model()
        put_on(model, token_ids=(3,))
        detach_lora(model)
        put_on(model, targets=("q_proj",), rank=2)
        assert {name.rpartition(".lora")[0][-6:] for name, _ in adapter_parameters(model)} == {"q_proj"}

    def test_stored_and_loaded(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        config = put_on(model, **lora)
        stored = weights_of(model, copy=True, only_trained=True)
        other = random_model(**architecture)
        load_lora(other, LoRAConfig.from_dict(config.to_dict()), stored)
        assert torch.equal(logits_of(other), logits_of(model))

    def test_the_mode_stays(self):
        """A layer that is put in place in training mode would go on to drop in a model that answers."""
        model = random_model()
        put_on(model, dropout=0.5, token_ids=(3,))
        assert not any(module.training for module in model.modules())
        assert torch.equal(logits_of(model), logits_of(model))
        model.train()
        detach_lora(model)
        assert all(module.training for module in model.modules())


class TestTraining:
    def test_only_the_adapter_has_gradients(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        put_on(model, **lora)
        input_ids = random_ids(2, 30)
        input_ids[:, :2] = torch.tensor([90, 3])  # tokens whose rows are trained
        backward(model, input_ids)
        for name, parameter in model.named_parameters():
            is_ours = "lora_" in name
            assert parameter.requires_grad == is_ours, name
            assert (parameter.grad is not None) == is_ours, name
            if is_ours:
                assert parameter.grad.abs().max() > 0, name

    def test_an_expert_without_tokens_has_zeros(self):
        model = random_model(**MOE)
        put_on(model, targets=("experts",))
        backward(model, random_ids(1, 2))  # one token is read: two of five experts
        for name, parameter in adapter_parameters(model):
            used = parameter.grad.flatten(1).abs().amax(dim=1) > 0
            assert used.sum() == model.config.num_experts_per_tok, name

    def test_rows_of_unseen_tokens_have_zeros(self):
        model = random_model(tie_embeddings=False)
        put_on(model, token_ids=(5, 90))
        backward(model, torch.tensor([[5, 1, 2]]))
        read = model.model.embed_tokens.lora_rows.grad.abs().amax(dim=1)
        assert read[0] > 0 and read[1] == 0

    @pytest.mark.parametrize("name", ["dense", "granite", "dora", "rows_and_head"])
    def test_bfloat16_autocast(self, name):
        architecture, lora = KINDS[name]
        model = random_model(**architecture)
        put_on(model, **lora)
        expected = logits_of(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = logits_of(model)
            backward(model, random_ids(2, 30))
        assert (found - expected).abs().mean() < 0.05 * expected.std()
        assert not torch.equal(found, expected), "autocast was on"
        for name, parameter in adapter_parameters(model):
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name

    def test_float64_end_to_end(self, kind):
        architecture, lora = kind
        model = random_model(**architecture).double()
        put_on(model, **lora)
        assert logits_of(model).dtype == torch.float64
        assert {parameter.dtype for _, parameter in adapter_parameters(model)} == {torch.float64}


def slow_linear(layer: LoRALinear, hidden: Tensor, read: Tensor) -> Tensor:
    """One output after the other. `read` is `hidden` after dropout, which the frozen part does not pass through.

    DoRA (arXiv:2402.09353, eq. 5 and 11): the row that reads is m·(W + sBA)/‖W + sBA‖, its length a constant.
    """
    outputs = []
    for row in range(layer.out_features):
        weight = layer.weight[row]
        learned = weight + layer.scale * sum(b * a for b, a in zip(layer.lora_B[row], layer.lora_A, strict=True))
        if layer.lora_magnitude is not None:
            length = learned.detach().square().sum().sqrt()
            learned = layer.lora_magnitude[row] / length * learned
        kept = hidden @ weight + read @ (learned - weight)
        outputs.append(kept if layer.bias is None else kept + layer.bias[row])
    return torch.stack(outputs, dim=-1)


class TestFormula:
    @pytest.mark.parametrize("use_dora", [False, True])
    @pytest.mark.parametrize("dropout", [0.0, 0.4])
    @pytest.mark.parametrize("bias", [False, True])
    def test_linear_with_gradients(self, use_dora, dropout, bias):
        torch.manual_seed(0)
        config = LoRAConfig(("any",), rank=3, alpha=7.0, dropout=dropout, use_rslora=True, use_dora=use_dora)
        layer = LoRALinear(nn.Linear(10, 6, bias=bias, dtype=torch.float64), config)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name.startswith("lora_"))
            nn.init.normal_(parameter, mean=float("magnitude" in name), std=0.5)
        hidden = torch.randn(4, 5, 10, dtype=torch.float64, requires_grad=True)
        learned = [hidden, *(each for each in layer.parameters() if each.requires_grad)]

        torch.manual_seed(1)
        found = layer(hidden)
        torch.manual_seed(1)
        read = nn.functional.dropout(hidden, dropout)
        expected = slow_linear(layer, hidden, read)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

        direction = torch.randn_like(found)
        gradients = torch.autograd.grad(found, learned, direction)
        for own, other in zip(gradients, torch.autograd.grad(expected, learned, direction), strict=True):
            assert own.abs().max() > 0
            torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(("use_rslora", "scale"), [(False, 6 / 9), (True, 6 / 3)])
    def test_scale(self, use_rslora, scale):
        assert LoRAConfig(("any",), rank=9, alpha=6.0, use_rslora=use_rslora).scale == pytest.approx(scale)

    def test_dropout_drops_only_in_training(self):
        model = random_model(**MOE)
        put_on(model, dropout=0.5)
        assert torch.equal(logits_of(model), logits_of(model))
        model.train()
        assert not torch.equal(logits_of(model), logits_of(model))


class TestBeginning:
    def draw(self, seed: int = 0, **architecture) -> dict[str, Tensor]:
        model = random_model(**architecture)
        attach_lora(model, LoRAConfig(default_targets(model), rank=16), seed)
        return weights_of(model, copy=True, only_trained=True)

    @pytest.mark.parametrize("architecture", [{}, MOE])
    def test_a_is_uniform_and_b_zero(self, architecture):
        for name, value in self.draw(**architecture).items():
            if "lora_B" in name:
                assert not value.any(), name
            else:
                bound = 1 / math.sqrt(value.shape[-1])
                assert 0.95 * bound < value.abs().max() <= bound, name
                assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
                assert abs(value.mean()) < 0.1 * bound, name

    def test_it_comes_from_the_seed_alone(self):
        first = self.draw(seed=3)
        model = random_model()
        torch.manual_seed(99)
        torch.rand(7)
        state = torch.get_rng_state()
        attach_lora(model, LoRAConfig(default_targets(model), rank=16), seed=3)
        assert torch.equal(torch.get_rng_state(), state), "others' random numbers are left alone"
        for name, value in weights_of(model, only_trained=True).items():
            assert torch.equal(value, first[name]), name
        name = "model.layers.0.self_attn.q_proj.lora_A"
        assert not torch.equal(self.draw(seed=4)[name], first[name])

    def test_magnitudes_are_the_rows_lengths(self):
        model = random_model()
        attach_lora(model, LoRAConfig(("k_proj",), use_dora=True))
        layer = model.model.layers[1].self_attn.k_proj
        expected = [math.sqrt(sum(value**2 for value in row)) for row in layer.weight.tolist()]
        assert layer.lora_magnitude.tolist() == pytest.approx(expected, rel=1e-6)


class TestAsAModule:
    def test_deepcopy(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        put_on(model, **lora)
        twin, expected = copy.deepcopy(model), logits_of(model)
        assert torch.equal(logits_of(twin), expected)
        with torch.no_grad():
            for _, parameter in adapter_parameters(twin):
                parameter.zero_()
        assert torch.equal(logits_of(model), expected)
        assert not torch.equal(logits_of(twin), expected)

    def test_state_dict(self, kind):
        architecture, lora = kind
        model, other = random_model(**architecture), random_model(**architecture)
        put_on(model, **lora)
        put_on(other, seed=2, **lora)
        other.load_state_dict(model.state_dict())
        assert torch.equal(logits_of(other), logits_of(model))

    def test_stored_parameters(self, kind):
        architecture, lora = kind
        model = random_model(**architecture)
        base = stored_parameters(model).keys()
        put_on(model, **lora)
        trained = stored_parameters(model, only_trained=True)
        assert trained.keys() == dict(adapter_parameters(model)).keys()
        assert stored_parameters(model).keys() == base | trained.keys()
        assert all(name.rpartition(".")[2].startswith("lora_") for name in trained)

    def test_a_tied_head_has_the_embeddings_rows(self):
        model = random_model()
        put_on(model, token_ids=(3, 5))
        assert [name for name, _ in adapter_parameters(model) if "rows" in name] == ["model.embed_tokens.lora_rows"]
        assert copy.deepcopy(model).lm_head.lora_rows is not model.lm_head.lora_rows
        twin = copy.deepcopy(model)
        assert twin.lm_head.lora_rows is twin.model.embed_tokens.lora_rows


class TestMistakes:
    @pytest.mark.parametrize(
        ("architecture", "target", "words"),
        [
            ({}, "qproj", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
            ({}, "experts", "this model has q_proj"),
            ({}, "lm_head", "tied to the embedding"),
            ({"tie_embeddings": False}, "head", "lm_head"),
            (MOE, "router", "down_proj, experts"),
        ],
    )
    def test_unknown_targets(self, architecture, target, words):
        model = random_model(**architecture)
        with pytest.raises(UserError, match=f"--lora_targets: found '{target}'.*{words}"):
            attach_lora(model, LoRAConfig(("q_proj", target)))
        assert model.adapter is None and all(each.requires_grad for each in model.parameters())

    def test_possible_targets(self):
        linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        assert possible_targets(random_model()) == linear
        assert possible_targets(random_model(tie_embeddings=False)) == [*linear, "lm_head"]
        assert possible_targets(random_model(**MOE)) == [*linear, "experts"]
        assert default_targets(random_model(tie_embeddings=False)) == tuple(linear)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rank": 0}, "--lora_rank: found 0, expected at least 1"),
            ({"alpha": 0.0}, "--lora_alpha: found 0.0"),
            ({"alpha": math.nan}, "--lora_alpha: found nan"),
            ({"dropout": 1.0}, "--lora_dropout: found 1.0, expected a share"),
            ({"targets": ()}, "--lora_targets: found none"),
            (
                {"targets": ("experts",), "use_dora": True},
                "--use_dora: not for experts; name --lora_targets without it",
            ),
            ({"targets": ("q_proj", "lm_head"), "use_dora": True}, "--use_dora: not for lm_head"),
        ],
    )
    def test_impossible_adapters(self, changes, words):
        with pytest.raises(UserError, match=words):
            LoRAConfig(**{"targets": ("q_proj",), **changes})

    def test_a_file_that_lacks_a_value(self):
        values = LoRAConfig(("q_proj",), token_ids=(1, 2)).to_dict()
        assert LoRAConfig.from_dict(values) == LoRAConfig(("q_proj",), token_ids=(1, 2))
        with pytest.raises(UserError, match="colour"):
            LoRAConfig.from_dict({**values, "colour": "red"})
        del values["alpha"]
        with pytest.raises(UserError, match="alpha"):
            LoRAConfig.from_dict(values)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"n_layers": 2}, "the adapter has model.layers.2"),
            ({"n_layers": 4}, "the adapter lacks model.layers.3"),
            ({"n_kv_heads": 6}, r"k_proj.lora_B has shape \[16, 4\], the model needs \[48, 4\]"),
        ],
    )
    def test_another_architectures_adapter(self, changes, words):
        model, other = random_model(), random_model(**changes)
        config = put_on(model)
        expected = values_of(other)
        with pytest.raises(UserError, match=words):
            load_lora(other, config, weights_of(model, only_trained=True))
        assert other.adapter is None
        assert_same_values(other, expected)

"""Our adapters against PEFT on the stock architectures of transformers, both ways: files, logits, gradients."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.stock_models import stock_model
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_of
from model.decoder import CausalLM
from model.errors import UserError
from model.loading import load_whole, widened
from model.lora import LoRAConfig, adapter_parameters, load_lora, merge_lora
from model.peft_format import adapter_from_peft, read_peft, write_peft
from model.peft_layers import PeftLayer, from_peft_layers
from tests.model.random_adapters import ARCHITECTURES, checkpoint_of, put_on
from tests.model.random_models import MOE, assert_close, random_ids, random_model
from tests.tiny_model import tiny_tokenizer

DENSE, QWEN, GRANITE = ARCHITECTURES["dense"], ARCHITECTURES["qwen3_moe"], ARCHITECTURES["granite"]
UNTIED: dict[str, Any] = {"tie_embeddings": False}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{name: (changes, {}) for name, changes in ARCHITECTURES.items()},
    "qwen3": ({"qk_norm": True, "head_dim": 12}, {}),
    "mistral": ({"sliding_window": 5}, {}),
    "dora": ({"qkv_bias": True}, {"use_dora": True}),
    "rslora": (DENSE, {"use_rslora": True, "rank": 16, "alpha": 2.5}),
    "rank_1": (DENSE, {"rank": 1, "alpha": 3.0}),
    "few": (DENSE, {"targets": ("k_proj", "down_proj")}),
    "head": (UNTIED, {"targets": ("q_proj", "lm_head")}),
    "rows_tied": (DENSE, {"token_ids": (90, 3, 96)}),
    "rows_untied": (UNTIED, {"token_ids": (90, 3, 96)}),
    "qwen3_moe_experts": (QWEN, {"targets": ("experts",), "rank": 3, "use_rslora": True}),
    "granite_rslora": (GRANITE, {"use_rslora": True, "rank": 1, "alpha": 1.5}),
    "granite_gate": (GRANITE, {"targets": ("gate_proj", "experts"), "rank": 3}),
    "granite_up": (GRANITE, {"targets": ("up_proj", "down_proj")}),
    "granite_dora": (GRANITE, {"targets": ("q_proj", "gate_proj", "up_proj", "down_proj"), "use_dora": True}),
    "granite_one_expert": ({**MOE, "n_routed_experts": 1, "num_experts_per_tok": 1}, {}),
    "granite_no_shared": ({**MOE, "n_shared_experts": 0}, {}),
}


def logits_of(model: Any, seq: int = 40) -> Tensor:
    with torch.no_grad():
        return model(random_ids(2, seq)).logits


def written(folder: Path, model: CausalLM) -> Path:
    write_peft(folder, checkpoint_of(model), "base")
    return folder


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


class TestAgainstPeft:
    def test_logits(self, variant, tmp_path):
        architecture, lora = variant
        model = random_model(**architecture)
        attention = "eager" if "sliding_window" in architecture else "sdpa"
        twin, without = stock_model(model, attention), logits_of(model)
        put_on(model, **lora)
        theirs = PeftModel.from_pretrained(twin, written(tmp_path / "adapter", model)).eval()
        expected = logits_of(theirs)
        assert (expected - without).abs().max() > 1e-2, "an adapter that does nothing proves nothing"
        assert_close(logits_of(model), expected)
        merge_lora(model)
        assert_close(logits_of(model), logits_of(theirs.merge_and_unload()))

    @pytest.mark.parametrize("name", ["dense", "biases", "dora", "rslora", "head", "qwen3_moe", "granite_gate"])
    def test_gradients(self, name, tmp_path):
        architecture, lora = VARIANTS[name]
        model = random_model(**architecture)
        twin = stock_model(model)
        config = put_on(model, **lora)
        theirs = PeftModel.from_pretrained(twin, written(tmp_path / "adapter", model), is_trainable=True).eval()
        input_ids = random_ids(2, 30)
        theirs(input_ids, labels=input_ids).loss.backward()
        model(input_ids[:, :-1], targets=input_ids[:, 1:]).token_losses.mean().backward()
        expected = from_peft_layers(_gradients(theirs), config.rank, config.use_dora)
        for name, parameter in adapter_parameters(model):
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6, msg=name)

    def test_dropout_in_training_is_peft_s(self, tmp_path):
        """The same random numbers hide the same inputs, of DoRA's layers too."""
        model = random_model()
        twin = stock_model(model)
        put_on(model, targets=("o_proj", "down_proj"), use_dora=True, dropout=0.4)
        theirs = PeftModel.from_pretrained(twin, written(tmp_path / "adapter", model), is_trainable=True)
        logits = []
        for each in (model.train(), theirs.train()):
            torch.manual_seed(5)
            logits.append(logits_of(each))
        assert_close(*logits)
        torch.manual_seed(6)
        assert (logits_of(model) - logits[0]).abs().max() > 1e-2


def _gradients(theirs: PeftModel) -> dict[str, PeftLayer]:
    """Of PEFT's adapter, by the names of the layers; of the shared experts' joined layer as it is."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            assert parameter.grad is not None
            parts.setdefault(layer, {})[part.partition(".")[0]] = parameter.grad
    return {name: PeftLayer(own["A"], own["B"], own.get("magnitude_vector")) for name, own in parts.items()}


class TestRoundTrip:
    def test_ours_to_peft_to_ours(self, variant, tmp_path):
        architecture, lora = variant
        model = random_model(**architecture)
        config = put_on(model, **lora)
        found, weights = read_peft(written(tmp_path / "adapter", model))
        assert {*found.targets} == {*config.targets}
        assert {**found.to_dict(), "targets": 0} == {**config.to_dict(), "targets": 0}
        expected = weights_of(model, only_trained=True)
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            assert weights[name].dtype == torch.float32
            assert torch.equal(weights[name], value), name

    @pytest.mark.parametrize("name", ["dense", "dora", "head", "rows_tied", "granite_rslora"])
    def test_peft_to_ours_to_peft(self, name, tmp_path):
        """PEFT saves what it has read of ours; that is read again as the same."""
        architecture, lora = VARIANTS[name]
        model = random_model(**architecture)
        twin = stock_model(model)
        put_on(model, **lora)
        expected, weights = read_peft(written(tmp_path / "ours", model))
        PeftModel.from_pretrained(twin, tmp_path / "ours").save_pretrained(str(tmp_path / "theirs"))
        found, again = read_peft(tmp_path / "theirs")
        assert found == expected
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[each], weights[each]) for each in weights)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_read_as_float32(self, dtype, tmp_path):
        model = random_model()
        put_on(model)
        folder = written(tmp_path / "adapter", model)
        path = folder / "adapter_model.safetensors"
        tensors = {name: value.to(dtype) for name, value in safetensors.torch.load_file(path).items()}
        safetensors.torch.save_file(tensors, path)
        for name, value in read_peft(folder)[1].items():
            expected = dict(adapter_parameters(model))[name].detach().to(dtype).float()
            assert value.dtype == torch.float32 and torch.equal(value, expected)

    def test_dropout(self, tmp_path):
        """PEFT has none for stacks of experts, and refuses an adapter that says so."""
        for name, architecture in {"dense": DENSE, "moe": GRANITE}.items():
            model = random_model(**architecture)
            put_on(model, dropout=0.25)
            config, _ = read_peft(written(tmp_path / name, model))
            assert config.dropout == (0.25 if name == "dense" else 0.0)


FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all_linear": (DENSE, {"target_modules": "all-linear"}),
    "a_pattern": (DENSE, {"target_modules": r".*self_attn\.(q|v)_proj"}),
    "dora": ({"attention_bias": True}, {"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
    "head": (UNTIED, {"target_modules": ["q_proj", "lm_head"]}),
    "rows_tied": (DENSE, {"target_modules": ["q_proj"], "trainable_token_indices": [5, 2]}),
    "rows_of_the_embedding": (UNTIED, {"target_modules": ["q_proj"], "trainable_token_indices": [5, 2]}),
    "orthogonal": (DENSE, {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"}),
    "patterns_for_all": (
        DENSE,
        {"target_modules": ["q_proj"], "rank_pattern": {"q_.*": 6}, "alpha_pattern": {"q_.*": 9}},
    ),
    "granite": (
        GRANITE,
        {
            "target_modules": ["q_proj", "input_linear", "output_linear"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
    ),
    "granite_dora": (GRANITE, {"target_modules": ["q_proj", "input_linear"], "use_dora": True}),
    "qwen3_moe": (
        QWEN,
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    ),
}


def base_model(architecture: dict[str, Any]) -> tuple[CausalLM, Checkpoint]:
    """A base with a tokenizer that fits it."""
    model = random_model(**{**architecture, "vocab_size": tiny_tokenizer().vocab_size})
    base = Checkpoint("full_sft", model.config, weights_of(model, copy=True), tiny_tokenizer().files)
    return model, base


def foreign_adapter(folder: Path, model: CausalLM, **changes: Any) -> PeftModel:
    """An adapter that PEFT has made and saved, as if trained."""
    theirs = get_peft_model(stock_model(model), LoraConfig(r=4, lora_alpha=5, task_type="CAUSAL_LM", **changes))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    theirs.save_pretrained(f"{folder}")
    return theirs.eval()


class TestForeignAdapters:
    @pytest.mark.parametrize("name", FOREIGN)
    def test_same_logits(self, name, tmp_path):
        architecture, changes = FOREIGN[name]
        model, base = base_model(architecture)
        theirs, without = foreign_adapter(tmp_path / "adapter", model, **changes), logits_of(model)
        adapter = adapter_from_peft(tmp_path / "adapter", base, "base.pth")
        load_lora(model, LoRAConfig.from_dict(adapter.adapter["lora"]), adapter.weights)
        expected = logits_of(theirs)
        assert (expected - without).abs().max() > 1e-2
        assert_close(logits_of(model), expected)

    def test_granite_names_of_older_transformers(self, tmp_path):
        """Each stack was the only parameter of a module of its own then."""
        model = random_model(**GRANITE)
        put_on(model, targets=("experts",))
        folder = written(tmp_path / "adapter", model)
        path = folder / "adapter_model.safetensors"
        old = {"experts.base_layer.": "input_linear.", "experts.": "output_linear."}
        tensors = safetensors.torch.load_file(path)
        for new_name, old_name in old.items():
            tensors = {name.replace(new_name, old_name): value for name, value in tensors.items()}
        safetensors.torch.save_file(tensors, path)
        assert any("block_sparse_moe.input_linear.lora_A" in name for name in tensors)
        _, weights = read_peft(folder)
        for name, parameter in adapter_parameters(model):
            assert torch.equal(weights[name], parameter), name

    def test_checkpoint(self, tmp_path):
        model, base = base_model(DENSE)
        save_checkpoint(tmp_path / "base.pth", base)
        foreign_adapter(tmp_path / "adapter", model, target_modules=["q_proj"])
        adapter = adapter_from_peft(tmp_path / "adapter", base, f"{tmp_path / 'base.pth'}")
        save_checkpoint(tmp_path / "adapter.pth", adapter)
        found = load_checkpoint(tmp_path / "adapter.pth")
        assert found.stage == "lora" and found.adapter["base_digest"] == base.digest
        assert found.tokenizer_files == base.tokenizer_files and found.generation["stop_token_ids"] == [0, 3]
        assert load_whole(tmp_path / "adapter.pth").weights.keys() == base.weights.keys()

    @pytest.mark.parametrize("tied", [True, False])
    def test_new_tokens(self, tied, tmp_path):
        """A wider tokenizer travels in the folder; what comes back is the adapter that went."""
        _, base = base_model({"tie_embeddings": tied})
        wider = tiny_tokenizer().with_tokens(["<|mood|>", "<|tone|>"])
        model = widened(base, wider).build_model().eval()
        new = (base.config.vocab_size, base.config.vocab_size + 1)
        put_on(model, token_ids=new)
        adapter = checkpoint_of(model, base)
        adapter.tokenizer_files = wider.files
        twin = stock_model(widened(base, wider).build_model())
        write_peft(tmp_path / "adapter", adapter, "base")
        assert_close(logits_of(model), logits_of(PeftModel.from_pretrained(twin, tmp_path / "adapter").eval()))
        assert AutoTokenizer.from_pretrained(tmp_path / "adapter").convert_tokens_to_ids("<|tone|>") == new[1]
        found = adapter_from_peft(tmp_path / "adapter", base, "base.pth")
        assert found.config == adapter.config and found.adapter == adapter.adapter
        assert found.tokenizer_files == wider.files
        assert found.weights.keys() == adapter.weights.keys()
        assert all(torch.equal(found.weights[name], value) for name, value in adapter.weights.items())
        (tmp_path / "adapter" / "tokenizer.json").unlink()
        with pytest.raises(UserError, match=f"trainable_token_indices has {new[0]}.*put the adapter's tokenizer"):
            adapter_from_peft(tmp_path / "adapter", base, "base.pth")


class TestRefusals:
    @pytest.mark.parametrize(
        ("architecture", "changes", "words"),
        [
            (DENSE, {"rank_pattern": {"q_proj": 6}}, "rank_pattern and alpha_pattern: found ranks 4 .*6 with alpha 5"),
            (DENSE, {"alpha_pattern": {"layers.0.*": 7}}, "rank_pattern and alpha_pattern: found"),
            (DENSE, {"layers_to_transform": [1, 2]}, "layer 0 has no addition to self_attn.[kq]_proj"),
            (DENSE, {"layers_to_transform": [0, 1]}, "has additions to 2 layers, base.pth has 3"),
            (DENSE, {"modules_to_save": ["norm"]}, r"modules_to_save: found \['norm'\]"),
            (DENSE, {"init_lora_weights": "pissa"}, "init_lora_weights: found 'pissa'"),
            (DENSE, {"lora_bias": True}, "lora_bias: found True"),
            ({"attention_bias": True}, {"bias": "lora_only"}, "bias: found 'lora_only', expected 'none'"),
            (DENSE, {"target_modules": ["embed_tokens"]}, "model.embed_tokens.lora_embedding_A is no part"),
            (QWEN, {"target_parameters": ["mlp.gate.weight"]}, "model.layers.0.mlp.gate is no layer"),
            (QWEN, {"target_parameters": ["experts.down_proj"]}, "only down_proj of the experts"),
            (QWEN, {"target_modules": ["gate_proj", "up_proj", "down_proj"]}, "found ranks 4 .*8 with alpha 10"),
        ],
    )
    def test_peft_s_adapters_that_ours_cannot_be(self, architecture, changes, words, tmp_path):
        model, base = base_model(architecture)
        foreign_adapter(tmp_path / "adapter", model, **{"target_modules": ["q_proj", "k_proj"], **changes})
        with pytest.raises(UserError, match=words) as caught:
            adapter_from_peft(tmp_path / "adapter", base, "base.pth")
        assert str(tmp_path / "adapter") in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"peft_type": "IA3"}, "peft_type: found 'IA3', expected 'LORA'"),
            ({"r": None}, "r: found None, expected a number"),
            ({"r": 8}, "expected the rank 8"),
            ({"lora_alpha": "16"}, "lora_alpha: found '16'"),
            ({"lora_dropout": 2}, "--lora_dropout: found 2.0"),
            ({"use_dora": True}, "lacks a lora_magnitude_vector"),
            ({"use_qalora": True}, "use_qalora: found True, ours have none"),
            ({"some_later_setting": 3}, "some_later_setting: found 3, a setting that is not known"),
            ({"rank_pattern": {"(": 3}}, "rank_pattern: found .*expected names or regular expressions"),
        ],
    )
    def test_settings(self, changes, words, tmp_path):
        model = random_model()
        put_on(model)
        path = written(tmp_path / "adapter", model) / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        with pytest.raises(UserError, match=words):
            read_peft(tmp_path / "adapter")

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ([3], "found 1 ids for the 2 rows"),
            ({"embed_tokens": "all"}, "expected the ids"),
            (None, "expected the ids"),
        ],
    )
    def test_token_ids(self, given, words, tmp_path):
        model = random_model()
        put_on(model, token_ids=(3, 5))
        path = written(tmp_path / "adapter", model) / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "trainable_token_indices": given}))
        with pytest.raises(UserError, match=f"trainable_token_indices: .*{words}"):
            read_peft(tmp_path / "adapter")

    def test_damaged_files(self, tmp_path):
        model = random_model()
        put_on(model)
        folder = written(tmp_path / "adapter", model)
        weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=r"adapter_model\.safetensors: not a readable safetensors file"):
            read_peft(folder)
        weights.unlink()
        with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file; save the adapter with a PEFT"):
            read_peft(folder)
        config.write_text("[]")
        with pytest.raises(UserError, match="peft_type: found 'list'"):
            read_peft(folder)
        config.unlink()
        with pytest.raises(UserError, match=r"adapter_config\.json: no such file"):
            read_peft(folder)

    def test_tensors(self, tmp_path):
        model = random_model()
        put_on(model)
        path = written(tmp_path / "adapter", model) / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(path)
        first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        without = {name: value for name, value in tensors.items() if name != first}
        for changed, words in (
            (without, "layers.0.self_attn.q_proj lacks lora_A"),
            ({**without, "q_proj.lora_A": tensors[first]}, "does not begin with base_model.model."),
            ({**tensors, first: tensors[first][:2]}, r"q_proj has lora_A of shape \[2, 48\]"),
            ({**tensors, "base_model.model.score.weight": tensors[first]}, "score.weight is no part of an adapter"),
        ):
            safetensors.torch.save_file({name: value.clone() for name, value in changed.items()}, path)
            with pytest.raises(UserError, match=words):
                read_peft(path.parent)

    def test_a_joined_layer_that_is_not_two_of_ours(self, tmp_path):
        """Trained on in PEFT, what was zero beside the two blocks may no longer be."""
        model = random_model(**GRANITE)
        put_on(model)
        path = written(tmp_path / "adapter", model) / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors["base_model.model.model.layers.1.shared_mlp.input_linear.lora_B.weight"][0, -1] = 1e-3
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(UserError, match="has a rank of 8 that is not two of 4 side by side"):
            read_peft(path.parent)

    def test_a_changed_copy_of_the_head(self, tmp_path):
        """PEFT saves a targeted head's own weights as well: they must be the base's."""
        model, base = base_model(UNTIED)
        foreign_adapter(tmp_path / "adapter", model, target_modules=["lm_head"])
        path = tmp_path / "adapter" / "adapter_model.safetensors"
        tensors = safetensors.torch.load_file(path)
        name = "base_model.model.lm_head.base_layer.weight"
        safetensors.torch.save_file({**tensors, name: tensors[name] + 1}, path)
        with pytest.raises(UserError, match=r"lm_head.weight is whole, and not base.pth's; merge it"):
            adapter_from_peft(tmp_path / "adapter", base, "base.pth")

    def test_another_base(self, tmp_path):
        model, base = base_model(DENSE)
        foreign_adapter(tmp_path / "adapter", model, target_modules=["q_proj"])
        _, other = base_model({"dim": 96})
        with pytest.raises(UserError, match=r"does not fit other.pth: .*lora_A has shape \[4, 48\]"):
            adapter_from_peft(tmp_path / "adapter", other, "other.pth")
        tiny_tokenizer(300).save(tmp_path / "tokenizer")
        shutil.copytree(tmp_path / "tokenizer", tmp_path / "adapter", dirs_exist_ok=True)
        with pytest.raises(UserError, match=r"has another tokenizer than base\.pth"):
            adapter_from_peft(tmp_path / "adapter", base, "base.pth")

    @pytest.mark.parametrize(
        ("architecture", "lora", "words"),
        [
            (UNTIED, {"targets": ("lm_head",), "token_ids": (3,)}, "rows of new tokens beside lm_head"),
            (GRANITE, {"targets": ("up_proj",), "use_dora": True}, "DoRA on up_proj alone"),
            ({**MOE, "qk_norm": True}, {}, "no stock architecture carries the adapter's base: qk_norm with shared"),
        ],
    )
    def test_ours_that_peft_cannot_hold(self, architecture, lora, words, tmp_path):
        model = random_model(**architecture)
        put_on(model, **lora)
        with pytest.raises(UserError, match=words):
            write_peft(tmp_path / "adapter", checkpoint_of(model), "base")
        assert not any(tmp_path.iterdir())

    def test_a_folder_that_exists(self, tmp_path):
        model = random_model()
        put_on(model)
        with pytest.raises(UserError, match="exists already"):
            write_peft(tmp_path, checkpoint_of(model), "base")
        assert not any(tmp_path.iterdir())

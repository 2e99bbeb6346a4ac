"""What is not carried, missing or damaged in a Hugging Face folder ends in one line that names it."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import LMConfig
from model.convert import open_checkpoint, read_hf_folder
from model.convert_config import STOCK_CLASSES, read_stock_config
from model.convert_weights import read_stock_weights
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.model.stock_folders import SHAPE, change_config, stock_twin, write_folder

NAMES = ("llama", "llama_tied", "mistral", "qwen2", "qwen3", "granite", "qwen3_moe")


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, tokenizer: ChatTokenizer) -> dict[str, Path]:
    """A folder of each kind, which tests copy."""
    room = tmp_path_factory.mktemp("stock")
    return {name: write_folder(room / name, stock_twin(name), tokenizer) for name in NAMES}


@pytest.fixture
def folder(stock, tmp_path) -> Path:
    return shutil.copytree(stock["llama"], tmp_path / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_hf_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder)), message
    return message


YARN_MSCALE = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.7, "rope_theta": 1e4}
MIXED = ["full_attention", "sliding_attention"]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"model_type": "gpt2"}, 'model_type: found "gpt2"; Seedling carries llama, mistral, qwen2, qwen3, gran'),
    ("llama", {"model_type": None}, "model_type: found null"),
    ("llama", {"model_type": ["llama"]}, "model_type: found ['\"]*"),
    ("llama", {"model_type": "yulanmini", "auto_map": {"AutoModel": "modeling.X"}}, r"own Python code \(auto_map\) is"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures: found .*carries LlamaForCausalLM"),
    ("llama", {"architectures": ["MyModel"], "auto_map": {"a": "b"}}, r"MyModel.*\(auto_map\) is not run"),
    ("llama", {"hidden_act": "gelu"}, 'hidden_act: found "gelu"; Seedling carries "silu"'),
    ("granite", {"hidden_act": "relu"}, 'hidden_act: found "relu"'),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, 'quantization_config: found "gptq".*unquantised'),
    ("llama", {"quantization_config": 4}, "quantization_config: found 4, expected a JSON object"),
    ("granite", {"embedding_multiplier": 12.0}, "embedding_multiplier: found 12.0; Seedling carries 1"),
    ("granite", {"residual_multiplier": 0.22}, "residual_multiplier: found 0.22"),
    ("granite", {"logits_scaling": 8}, "logits_scaling: found 8"),
    ("granite", {"attention_multiplier": 0.25}, "attention_multiplier: found 0.25; .*here 0.3535"),
    ("granite", {"attention_multiplier": None}, "attention_multiplier: found 1.0"),  # transformers' default
    (
        "granite",
        {"shared_intermediate_size": 30},
        "shared_intermediate_size: found 30; .*multiple of intermediate_size 20",
    ),
    ("granite", {"intermediate_size": 0}, "shared_intermediate_size: found 40"),
    ("granite", {"num_experts_per_tok": 1}, "num_experts_per_tok: 1 with norm_topk_prob"),
    ("granite", {"num_experts_per_tok": 6}, "num_experts_per_tok: found 6"),
    ("granite", {"num_local_experts": None}, "lacks num_local_experts"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers: found \[0\]; Seedling carries \[\]"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step: found 2; Seedling carries 1"),
    (
        "qwen3_moe",
        {"norm_topk_prob": None, "moe_intermediate_size": None},
        "lacks moe_intermediate_size, norm_topk_prob",
    ),
    ("qwen3_moe", {"layer_types": MIXED}, "layer_types: found .*one kind of attention"),
    ("qwen2", {"layer_types": MIXED, "use_sliding_window": True, "sliding_window": 7}, "layer_types: .*is 7"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, r"layer_types: .*sliding_window is null"),
    ("qwen2", {"layer_types": ["linear_attention"] * 2}, "layer_types: .*linear_attention"),
    (
        "qwen3",
        {"layer_types": None, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        "max_window_layers: found 1; .*one kind of attention",
    ),
    ("mistral", {"layer_types": MIXED}, "layer_types: found"),
    ("mistral", {"sliding_window": 0}, "sliding_window: found 0"),
    ("llama", {"sliding_window": 7}, "sliding_window: found 7; .*remove the key"),
    ("llama", {"layer_types": MIXED}, "layer_types: found"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: found 0.5; .*whole heads"),
    ("llama", {"rope_theta": 10_000.0}, "rope_theta: the file says both 10000.0 and, in rope_parameters, 490000.0"),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        'rope_type: the file says both "default" and "linear"',
    ),
    ("llama", {"rope_scaling": "linear"}, 'rope_scaling: found "linear", expected a JSON object'),
    (
        "llama",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        r"rope_parameters.full_attention: .*all layers",
    ),
    ("llama", {"rope_parameters": YARN_MSCALE}, "does not know mscale, mscale_all_dim"),
    ("llama", {"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "rope_type default does not know factor"),
    ("llama", {"hidden_size": None, "rms_norm_eps": None}, "lacks hidden_size, rms_norm_eps, which a llama"),
    ("llama", {"hidden_size": "48"}, "no llama configuration that transformers reads.*hidden_size"),
    ("llama", {"num_attention_heads": 0}, "no llama configuration that transformers reads"),
    ("llama", {"num_attention_heads": 7}, "no llama configuration that transformers reads.*not a multiple"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads: found 4, which does not divide n_heads 6"),
    ("llama", {"rms_norm_eps": 0.0}, "json: rms_norm_eps: found 0.0"),
    ("llama", {"num_hidden_layers": 0}, "json: num_hidden_layers: found 0"),
    ("llama", {"vocab_size": 100}, "tokenizer.json: has .* ids, but config.json's vocab_size is 100"),
    ("llama", {"eos_token_id": 509}, "config.json: eos_token_id: found 509, expected ids below vocab_size 509"),
    ("llama", {"eos_token_id": [0, "2"]}, "no llama configuration that transformers reads.*eos_token_id"),
    ("llama", {"num_hidden_layers": 3}, r"model.safetensors: lacks model.layers.2.input_layernorm.weight and 8 more"),
    ("llama", {"num_hidden_layers": 1}, r"model.safetensors: has model.layers.1.* and 8 more"),
    ("llama", {"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias and 5 more"),
    ("llama", {"model_type": "qwen3", "architectures": None}, "lacks model.layers.0.self_attn.k_norm.weight"),
    ("qwen2", {"model_type": "llama", "architectures": None, "layer_types": None}, "has .*k_proj.bias and 5 more"),
    (
        "llama",
        {"vocab_size": 510},
        r"embed_tokens.weight has shape \[509, 48\], config.json makes it \[510, 48\]|lm_head",
    ),
    ("granite", {"intermediate_size": 10}, r"linear.weight has shape .*config.json makes it"),
    ("qwen3_moe", {"moe_intermediate_size": 10}, r"experts\.\d\..*_proj.weight has shape"),
    ("llama_tied", {"tie_word_embeddings": False}, "lacks lm_head.weight; if the head is the embedding, set tie_word"),
    ("llama", {"tie_word_embeddings": True}, "lm_head.weight differs from model.embed_tokens.weight though"),
]


ODD_VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2.5, 10**30, float("nan"), float("inf"), "", "x", [], [1], [None], {}, {"a": 1}),
    {"type": "yarn"},
    {"rope_type": "linear", "factor": "a", "rope_theta": "x"},
    {"rope_type": "yarn", "factor": 0.5, "rope_theta": -3},
    {"rope_type": "llama3", "factor": 8, "low_freq_factor": "1", "high_freq_factor": 4},
]


class TestConfiguration:
    @pytest.mark.parametrize(("name", "changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
    def test_refused(self, stock, tmp_path, name, changes, words):
        folder = shutil.copytree(stock[name], tmp_path / "model")
        change_config(folder, **changes)
        message = refusal(folder)
        assert re.search(words, message), message

    @pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "mrope", "proportional", None, 3, []])
    @pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
    def test_rope_of_other_kinds(self, folder, kind, spelling):
        scaling = {"type": kind, "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
        change_config(folder, **{"rope_parameters": None, spelling: scaling})
        carried = "carries default, linear, yarn, llama3|rope_type default does not know factor"
        assert re.search(rf"config\.json: {spelling}.*({carried})", refusal(folder))

    @pytest.mark.parametrize("name", NAMES)
    def test_any_value_is_read_or_named(self, stock, tmp_path, name):
        values = json.loads((stock[name] / "config.json").read_text())
        keys = [*values, "rope_theta", "rope_scaling", "partial_rotary_factor", "head_dim", "use_sliding_window"]
        path, generator, num_refused = tmp_path / "config.json", random.Random(0), 0
        for key, odd in generator.sample([(key, odd) for key in keys for odd in ODD_VALUES], 150):
            path.write_text(json.dumps({**values, key: odd}))
            try:
                config, message = read_stock_config(path)[1], None
            except UserError as error:
                config, message = None, str(error)
            assert isinstance(config, LMConfig) or message.startswith(f"{path}: ")
            num_refused += message is not None
        assert num_refused > 50

    @pytest.mark.parametrize("model_type", STOCK_CLASSES)
    def test_every_kind_says_what_it_lacks(self, folder, model_type):
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        message = refusal(folder)
        assert f"which a {model_type} model is described with" in message
        assert all(key in message for key in SHAPE if key not in ("num_key_value_heads", "rope_parameters"))

    @pytest.mark.parametrize("content", ["[]", "", "{", "3", "\ufeff{}"])
    def test_a_config_that_is_none(self, folder, content):
        (folder / "config.json").write_text(content)
        assert "config.json: " in refusal(folder)


class TestFolder:
    def test_a_runs_folder(self, tmp_path):
        (tmp_path / "out" / "full_sft_256").mkdir(parents=True)
        (tmp_path / "out" / "full_sft_256.pth").touch()
        with pytest.raises(
            UserError, match=r"full_sft_256: has no config.json; .*did you mean .*out/full_sft_256\.pth\?$"
        ):
            open_checkpoint(tmp_path / "out" / "full_sft_256")

    def test_any_other_folder(self, tmp_path):
        with pytest.raises(
            UserError, match=r"has no config.json; a model is a .pth or a Hugging Face folder .*json\)$"
        ):
            open_checkpoint(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match=r"none: no such checkpoint file"):
            open_checkpoint(tmp_path / "none")
        with pytest.raises(UserError, match=r"none: no such folder"):
            read_hf_folder(tmp_path / "none")

    def test_no_tokenizer_json(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").touch()
        message = refusal(folder)
        assert re.search(
            r"has no tokenizer.json; .*AutoTokenizer.from_pretrained\('.*model'\).save_pretrained", message
        )

    def test_no_tokenizer_config(self, folder):
        (folder / "tokenizer_config.json").unlink()
        assert "tokenizer_config.json: missing" in refusal(folder)

    @pytest.mark.parametrize("content", ["[]", "{", '{"eos_token_id": [9999]}', '{"eos_token_id": true}'])
    def test_generation_config(self, folder, content):
        (folder / "generation_config.json").write_text(content)
        assert "generation_config.json: " in refusal(folder)


class TestWeights:
    def change(self, folder: Path, **changes: Any) -> None:
        """Change tensors of model.safetensors; None removes one."""
        weights = {**load_file(folder / "model.safetensors"), **changes}
        save_file(
            {name: tensor for name, tensor in weights.items() if tensor is not None}, folder / "model.safetensors"
        )

    def test_none(self, folder):
        (folder / "model.safetensors").unlink()
        assert re.search("has no weights; expected one of model.safetensors, ", refusal(folder))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"model.norm.weight": None}, "model.safetensors: lacks model.norm.weight; "),
            ({"score.weight": torch.zeros(2)}, "model.safetensors: has score.weight, which the model"),
            ({"model.norm.weight": torch.ones(47)}, r"model.norm.weight has shape \[47\], config.json makes it \[48\]"),
            ({"model.norm.weight": torch.ones(1)}, r"model.norm.weight has shape \[1\]"),  # would be spread over all
            ({"model.norm.weight": torch.tensor(1.0)}, r"model.norm.weight has shape \[\]"),
            (
                {"model.norm.weight": torch.ones(48, dtype=torch.int8)},
                "model.norm.weight is int8; Seedling carries float32",
            ),
            ({"model.norm.weight": torch.ones(48).to(torch.float8_e4m3fn)}, "model.norm.weight is float8_e4m3fn"),
            ({"model.norm.weight": torch.ones(48).double()}, "model.norm.weight is float64"),
        ],
        ids=str,
    )
    def test_tensors_that_do_not_fit(self, folder, changes, words):
        self.change(folder, **changes)
        message = refusal(folder)
        assert re.search(words, message), message

    def test_a_pointer_of_git_lfs(self, folder):
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
        assert "model.safetensors: is only Git LFS's pointer" in refusal(folder)

    def test_cut_anywhere(self, folder):
        path = folder / "model.safetensors"
        data = path.read_bytes()
        for place in range(40):
            path.write_bytes(data[: len(data) * place // 40])
            assert "model.safetensors: cut short, altered" in refusal(folder)

    def test_a_header_with_a_byte_altered(self, folder):
        """It is named, or what is read is what was written. (Only a checksum finds an altered weight.)"""
        path, config = folder / "model.safetensors", read_hf_folder(folder).config
        data = path.read_bytes()
        expected = read_stock_weights(folder, "llama", config)[1]
        generator, num_named = random.Random(0), 0
        for _ in range(300):
            damaged = bytearray(data)
            damaged[generator.randrange(8 + int.from_bytes(data[:8], "little"))] ^= generator.randrange(1, 256)
            path.write_bytes(damaged)
            try:
                found, message = read_stock_weights(folder, "llama", config)[1], None
            except UserError as error:
                found, message = expected, str(error)
            assert message is None or message.startswith(f"{path}: ")
            assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
            num_named += message is not None
        assert num_named > 200

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({"model": {"a": torch.zeros(1)}}, "expected tensors by their names and nothing else"),
            ([torch.zeros(1)], "expected tensors by their names"),
            ({"a": torch.zeros(1)}, "pytorch_model.bin: lacks "),
            ({"a": LMConfig()}, "not a readable checkpoint"),  # a pickled object, which is not unpickled
        ],
        ids=["nested", "list", "other", "object"],
    )
    def test_a_bin_of_another_kind(self, folder, content, words):
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")
        assert words in refusal(folder)

    def test_a_cut_bin(self, folder):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        data = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(data[:-200])
        assert "pytorch_model.bin: not a readable checkpoint" in refusal(folder)


class TestShards:
    @pytest.fixture
    def sharded(self, tmp_path, tokenizer) -> Path:
        return write_folder(tmp_path / "model", stock_twin("llama"), tokenizer, max_shard_size="60KB")

    def first_shard(self, folder: Path) -> Path:
        return min(folder.glob("model-*.safetensors"))

    def test_a_missing_one(self, sharded):
        self.first_shard(sharded).unlink()
        assert re.search(
            r"model-00001-of-0000\d.safetensors: missing, though model.safetensors.index.json", refusal(sharded)
        )

    def test_a_cut_one(self, sharded):
        path = self.first_shard(sharded)
        path.write_bytes(path.read_bytes()[:-5])
        assert f"{path.name}: cut short" in refusal(sharded)

    @pytest.mark.parametrize("form", ["safetensors", "bin"])
    def test_one_with_other_tensors(self, sharded, form):
        path = self.first_shard(sharded)
        weights = load_file(path)
        name = next(iter(weights))
        others = {**weights, "model.norm.weight": torch.ones(48), "extra": torch.ones(48)}
        lacking = {key: tensor for key, tensor in weights.items() if key != name}
        if form == "bin":
            index = sharded / "model.safetensors.index.json"
            values = json.loads(index.read_text())
            values["weight_map"] = {k: v.replace(path.name, "x.bin") for k, v in values["weight_map"].items()}
            index.write_text(json.dumps(values))
        for content, words in (
            (others, "which model.safetensors.index.json does not know"),
            (lacking, f"lacks {name}"),
        ):
            torch.save(content, sharded / "x.bin") if form == "bin" else save_file(content, path)
            assert words in refusal(sharded)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("[]", "expected `weight_map`"),
            ('{"weight_map": {"a": 3}}', "expected `weight_map`"),
            ('{"weight_map": {"a": "../x.safetensors"}}', "expected a file of the same folder"),
            ('{"weight_map": {}}', "lacks "),
            ("{", "not a JSON file"),
        ],
    )
    def test_an_index_that_is_none(self, sharded, content, words):
        (sharded / "model.safetensors.index.json").write_text(content)
        assert words in refusal(sharded)

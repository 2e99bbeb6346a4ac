"""Reading a Hugging Face folder: the same logits as transformers, whatever the files look like."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from model.checkpoint import Checkpoint, digest_of, load_checkpoint, save_checkpoint
from model.config import LMConfig
from model.convert import open_checkpoint, read_hf_folder
from model.convert_config import read_stock_config
from model.convert_weights import stock_layout
from model.loading import load_model
from model.tokenizer import ChatTokenizer
from tests.model.random_models import LLAMA3, YARN, assert_close
from tests.model.stock_folders import STOCK, change_config, logits_of, stock_twin, write_folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: ChatTokenizer) -> Path:
    """One folder that many tests copy."""
    return write_folder(tmp_path_factory.mktemp("stock") / "llama", stock_twin("llama"), tokenizer)


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    return shutil.copytree(llama, tmp_path / "model")


def token_ids(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(0, 509, (batch, seq), generator=torch.Generator().manual_seed(1))


def assert_same_logits(checkpoint: Checkpoint, twin: nn.Module) -> None:
    """Longer than the windows, the scaled contexts and max_position_embeddings; and rows of unequal lengths."""
    model, input_ids = checkpoint.build_model().eval(), token_ids(2, 80)
    expected = logits_of(twin, input_ids)
    assert expected.std() > 0.1, "logits that are all alike prove nothing"
    assert_close(logits_of(model, input_ids), expected)
    lengths = torch.tensor([80, 33])
    is_real = torch.arange(80) < lengths[:, None]
    with torch.no_grad():
        padded = twin(input_ids, attention_mask=is_real.long()).logits
        segments = torch.where(is_real, 0, -1)
        found = model(input_ids, segment_ids=segments, document_mask=True).logits
    assert_close(found[is_real], padded[is_real])


class TestLogits:
    @pytest.mark.parametrize("name", STOCK)
    def test_as_transformers(self, tmp_path, tokenizer, name):
        write_folder(tmp_path / "model", stock_twin(name), tokenizer)
        twin = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
        checkpoint = read_hf_folder(tmp_path / "model")
        assert_same_logits(checkpoint, twin)
        assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in checkpoint.weights.values())

    def test_a_bias_on_o_that_is_zero_is_none(self, tmp_path, tokenizer):
        twin = stock_twin("llama_attention_bias")
        for name, parameter in twin.named_parameters():
            if name.endswith("o_proj.bias"):
                nn.init.zeros_(parameter)
        checkpoint = read_hf_folder(write_folder(tmp_path / "model", twin, tokenizer))
        assert checkpoint.config.qkv_bias and not checkpoint.config.attention_bias
        assert not any("o_proj.bias" in name for name in checkpoint.weights)
        assert_same_logits(checkpoint, twin)

    def test_no_bias_on_o_in_the_file(self, tmp_path, tokenizer):
        folder = write_folder(tmp_path / "model", stock_twin("llama_attention_bias"), tokenizer)
        weights = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in weights.items() if "o_proj.bias" not in k}, folder / "model.safetensors")
        config = read_hf_folder(folder).config
        assert config.qkv_bias and not config.attention_bias

    def test_zero_biases_beside_experts_stay(self, tmp_path, tokenizer):
        """No stock architecture with experts has bias on q, k and v alone: it could not be exported again."""
        twin = stock_twin("granite_tied")
        for name, parameter in twin.named_parameters():
            if name.endswith("o_proj.bias"):
                nn.init.zeros_(parameter)
        checkpoint = read_hf_folder(write_folder(tmp_path / "model", twin, tokenizer))
        assert checkpoint.config.attention_bias and checkpoint.config.unexportable_reason() is None
        assert_same_logits(checkpoint, twin)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("llama", {"tie_embeddings": False, "head_dim": 8, "n_kv_heads": 2, "rope_theta": 490_000.0}),
            ("llama", {"norm_eps": 3e-5, "max_seq_len": 64, "vocab_size": 509, "hidden_dim": 44, "n_layers": 2}),
            ("llama_tied", {"tie_embeddings": True, "head_dim": 12}),
            ("llama_attention_bias", {"attention_bias": True, "qkv_bias": False}),
            ("llama_mlp_bias", {"mlp_bias": True, "attention_bias": False}),
            ("llama_llama3", {"rope_scaling": LLAMA3}),
            ("llama_yarn", {"rope_scaling": YARN}),
            ("llama_yarn_short", {"rope_scaling": {**YARN, "original_max_position_embeddings": 64}}),
            ("mistral", {"sliding_window": 7, "qk_norm": False}),
            ("mistral_no_window", {"sliding_window": None}),
            ("qwen2", {"qkv_bias": True, "attention_bias": False, "sliding_window": None}),
            ("qwen2_tied", {"sliding_window": None}),
            ("qwen2_window", {"sliding_window": 7}),
            ("qwen2_late_window", {"sliding_window": None}),
            ("qwen3", {"qk_norm": True, "head_dim": 20, "use_moe": False}),
            ("granite", {"use_moe": True, "n_shared_experts": 2, "moe_hidden_dim": 20, "n_routed_experts": 5}),
            ("granite", {"norm_topk_prob": True, "aux_loss_alpha": 0.003, "num_experts_per_tok": 3, "seq_aux": True}),
            ("granite_no_shared", {"n_shared_experts": 0}),
            ("qwen3_moe", {"n_shared_experts": 0, "qk_norm": True, "norm_topk_prob": True, "hidden_dim": 44}),
            ("qwen3_moe_tied", {"norm_topk_prob": False, "num_experts_per_tok": 1}),
        ],
    )
    def test_values(self, tmp_path, tokenizer, name, expected):
        config = read_hf_folder(write_folder(tmp_path / "model", stock_twin(name), tokenizer)).config
        assert {key: getattr(config, key) for key in expected} == expected

    @pytest.mark.parametrize("name", ["llama_linear", "llama_llama3", "llama_yarn", "qwen2", "qwen3_moe"])
    @pytest.mark.parametrize("type_key", ["type", "rope_type"])
    def test_as_transformers_4_wrote_it(self, tmp_path, tokenizer, name, type_key):
        folder = write_folder(tmp_path / "model", stock_twin(name), tokenizer)
        before = read_hf_folder(folder).config
        values = json.loads((folder / "config.json").read_text())
        parameters = values["rope_parameters"]
        theta, kind = parameters.pop("rope_theta"), parameters.pop("rope_type")
        scaling = ... if kind == "default" else {type_key: kind, **parameters}
        old = {"rope_theta": int(theta), "rope_scaling": scaling, "torch_dtype": "float32"}
        if "num_local_experts" in values:
            old |= {"num_local_experts": None, "num_experts": values["num_local_experts"]}
        change_config(folder, rope_parameters=None, dtype=None, **old)
        assert read_hf_folder(folder).config == before

    def test_both_spellings_that_agree(self, folder):
        before = read_hf_folder(folder).config
        change_config(folder, rope_theta=490_000.0, rope_scaling={"type": "default"})
        assert read_hf_folder(folder).config == before

    def test_what_a_file_leaves_out_is_the_architectures_default(self, folder):
        """As the first Llama's files are."""
        absent = dict.fromkeys(["tie_word_embeddings", "head_dim", "attention_bias", "mlp_bias", "architectures"])
        change_config(folder, rope_parameters=None, **absent)
        config = read_hf_folder(folder).config
        assert (config.tie_embeddings, config.head_dim, config.rope_theta) == (False, 8, 10_000.0)

    def test_no_key_value_heads(self, tmp_path, tokenizer):
        folder = write_folder(tmp_path / "model", stock_twin("llama_multi_head"), tokenizer)
        change_config(folder, num_key_value_heads=None)
        assert read_hf_folder(folder).config.n_kv_heads == 6

    def test_no_window_key_is_mistrals_own(self, tmp_path, tokenizer):
        folder = write_folder(tmp_path / "model", stock_twin("mistral"), tokenizer)
        change_config(folder, sliding_window=None)
        assert read_hf_folder(folder).config.sliding_window == 4096


# What the config.json files of well-known models say, and the number of parameters that their makers publish.
PUBLISHED = {
    "TinyLlama 1.1B": (
        1_100_048_384,
        """{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000, "rms_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "rope_theta": 10000.0, "rope_scaling": null, "pretraining_tp": 1}""",
    ),
    "Llama 3.2 1B": (
        1_235_814_400,
        """{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "rope_scaling":
        {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}, "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true}""",
    ),
    "Mistral 7B": (
        7_241_732_096,
        """{"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "rms_norm_eps": 1e-05,
        "max_position_embeddings": 32768, "rope_theta": 10000.0, "sliding_window": 4096}""",
    ),
    "Qwen2.5 0.5B": (
        494_032_768,
        """{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-06,
        "max_position_embeddings": 32768, "rope_theta": 1000000.0, "sliding_window": 32768, "use_mrope": false,
        "max_window_layers": 24, "use_sliding_window": false, "tie_word_embeddings": true}""",
    ),
    "Qwen3 0.6B": (
        596_049_920,
        """{"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-06, "max_position_embeddings": 40960, "rope_theta": 1000000, "rope_scaling": null,
        "attention_bias": false, "max_window_layers": 28, "use_sliding_window": false, "sliding_window": null,
        "tie_word_embeddings": true}""",
    ),
    "Qwen3 30B-A3B": (
        30_532_122_624,
        """{"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "rms_norm_eps": 1e-06, "max_position_embeddings": 40960, "rope_theta": 1000000.0, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": true, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "max_window_layers": 48, "use_sliding_window": false, "sliding_window": null}""",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(tmp_path, name):
    num_parameters, text = PUBLISHED[name]
    (tmp_path / "config.json").write_text(text)
    _, config = read_stock_config(tmp_path / "config.json")
    assert config.num_parameters() == num_parameters


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("form", ["single", "shards", "bin", "bin_shards"])
    @pytest.mark.parametrize("name", ["llama_tied", "granite", "qwen3_moe"])
    def test_forms_and_precisions(self, tmp_path, tokenizer, name, form, dtype):
        options = {"max_shard_size": "20KB"} if "shards" in form else {}
        folder = write_folder(tmp_path / "model", stock_twin(name).to(dtype), tokenizer, **options)
        # Read anew: `.float()` would not bring back the angles of RoPE that `.to(dtype)` rounded.
        twin = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        assert len(list(folder.glob("*.safetensors"))) > 3 or "shards" not in form
        if "bin" in form:
            _as_bin(folder)
        checkpoint = read_hf_folder(folder)
        assert checkpoint.lineage["imported"]["torch_dtype"] == str(dtype).removeprefix("torch.")
        assert_same_logits(checkpoint, twin)

    def test_forms_have_one_digest(self, tmp_path, tokenizer):
        twin, digests = stock_twin("granite"), set()
        for form, options in {"single": {}, "shards": {"max_shard_size": "40KB"}, "bin": {}}.items():
            folder = write_folder(tmp_path / form / "model", twin, tokenizer, **options)
            if form == "bin":
                _as_bin(folder)
            digests.add(read_hf_folder(folder).digest)
        assert len(digests) == 1

    def test_experts_as_they_lie_in_memory(self, tmp_path, tokenizer):
        twin = stock_twin("qwen3_moe")
        folder = write_folder(tmp_path / "model", twin, tokenizer)
        hub_names = load_file(folder / "model.safetensors").keys()
        assert "model.layers.1.mlp.experts.4.gate_proj.weight" in hub_names, "this is what transformers writes"
        save_file(twin.state_dict(), folder / "model.safetensors")
        assert "model.layers.1.mlp.experts.gate_up_proj" in twin.state_dict()
        assert_same_logits(read_hf_folder(folder), twin)

    def test_tables_of_old_versions_are_left_out(self, folder):
        expected = read_hf_folder(folder)
        weights = load_file(folder / "model.safetensors")
        weights |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
        save_file(weights, folder / "model.safetensors")
        assert read_hf_folder(folder).digest == expected.digest

    def test_a_tied_head_beside_its_embedding(self, tmp_path, tokenizer):
        folder = write_folder(tmp_path / "model", stock_twin("llama_tied"), tokenizer)
        expected = read_hf_folder(folder)
        weights = load_file(folder / "model.safetensors")
        save_file(
            {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors"
        )
        found = read_hf_folder(folder)
        assert found.digest == expected.digest and "lm_head.weight" not in found.weights

    @pytest.mark.parametrize("name", ["llama", "granite", "granite_no_shared", "qwen3_moe"])
    def test_the_table_of_names_covers_every_value_once(self, tmp_path, tokenizer, name):
        """It is used in both directions, so nothing may be left out or stand in two places."""
        folder = write_folder(tmp_path / "model", stock_twin(name), tokenizer)
        checkpoint = read_hf_folder(folder)
        counts = {key: torch.zeros_like(tensor) for key, tensor in checkpoint.weights.items()}
        layout = stock_layout(STOCK[name][0], checkpoint.config)
        assert layout.keys() == load_file(folder / "model.safetensors").keys()
        for part in (part for parts in layout.values() for part in parts):
            counts[part.name][part.index] += 1
        assert all((count == 1).all() for count in counts.values())


def _as_bin(folder: Path) -> None:
    """Write the folder's weights as older versions of transformers did."""
    for path in folder.glob("*.safetensors"):
        torch.save(
            load_file(path), folder / path.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        )
        path.unlink()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        text = index.read_text().replace("model-0", "pytorch_model-0").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()


class TestDigest:
    def test_the_same_wherever_the_folder_lies(self, folder, tmp_path):
        moved = shutil.move(folder, tmp_path / "elsewhere" / "model")
        digest = read_hf_folder(moved).digest
        assert digest == read_hf_folder(f"{moved}/../model").digest
        shutil.copytree(moved, tmp_path / "model")
        assert read_hf_folder(tmp_path / "model").digest == digest

    def test_another_after_one_weight_changes(self, folder):
        before = read_hf_folder(folder).digest
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][3] += 1e-6
        save_file(weights, folder / "model.safetensors")
        assert read_hf_folder(folder).digest != before

    def test_what_saving_gives(self, folder, tmp_path):
        checkpoint = read_hf_folder(folder)
        assert checkpoint.digest == digest_of(checkpoint) != ""
        assert save_checkpoint(tmp_path / "imported.pth", checkpoint) == read_hf_folder(folder).digest
        assert open_checkpoint(tmp_path / "imported.pth").digest == read_hf_folder(folder).digest

    def test_a_saved_import_speaks_alone(self, folder, tmp_path):
        checkpoint = read_hf_folder(folder)
        save_checkpoint(tmp_path / "imported.pth", checkpoint)
        model, tokenizer, saved = load_model(tmp_path / "imported.pth")
        input_ids = torch.tensor([tokenizer.encode("The capital of France")])
        assert torch.equal(logits_of(model, input_ids), logits_of(checkpoint.build_model().eval(), input_ids))
        assert saved.stage == "imported"


class TestTheRest:
    def test_a_renamed_folder_is_the_same_model(self, folder):
        digest = open_checkpoint(folder).digest
        assert open_checkpoint(folder.rename(folder.with_name("another"))).digest == digest

    def test_where_it_comes_from(self, folder):
        checkpoint = open_checkpoint(folder)
        imported = {
            "model_type": "llama",
            "architecture": "LlamaForCausalLM",
            "torch_dtype": "float32",
        }
        assert checkpoint.lineage == {"imported": imported}
        assert (checkpoint.stage, checkpoint.step, checkpoint.tokens) == ("imported", 0, 0)

    def test_the_tokenizer(self, folder, tokenizer):
        checkpoint = read_hf_folder(folder)
        assert checkpoint.tokenizer_files == tokenizer.files
        assert checkpoint.tokenizer().vocabulary_hash == tokenizer.vocabulary_hash

    def test_a_tokenizer_without_a_chat_template(self, folder):
        (folder / "chat_template.jinja").unlink()
        path = folder / "tokenizer_config.json"
        values = json.loads(path.read_text())
        del values["chat_template"]
        path.write_text(json.dumps(values))
        checkpoint = read_hf_folder(folder)
        assert checkpoint.tokenizer().chat_template is None
        assert checkpoint.generation["stop_token_ids"] == [0, 2]  # <|endoftext|>, and config.json's

    def test_stop_tokens_of_all_files(self, folder):
        """The tokenizer's end of text 0 and end of turn 3, config.json's 2."""
        advised = {"eos_token_id": [7, 5], "temperature": 0.3, "top_p": 0.8, "top_k": 20}
        (folder / "generation_config.json").write_text(json.dumps(advised))
        expected = {"stop_token_ids": [0, 2, 3, 5, 7], "temperature": 0.3, "top_p": 0.8}
        assert read_hf_folder(folder).generation == expected

    def test_without_advice(self, folder):
        (folder / "generation_config.json").unlink()
        change_config(folder, eos_token_id=...)
        assert read_hf_folder(folder).generation == {"stop_token_ids": [0, 3]}

    def test_a_pth_opens_as_ever(self, tmp_path, folder):
        save_checkpoint(tmp_path / "a.pth", read_hf_folder(folder))
        assert open_checkpoint(str(tmp_path / "a.pth")).config == load_checkpoint(tmp_path / "a.pth").config

    def test_every_import_validates_itself(self, folder):
        config = read_hf_folder(folder).config
        assert LMConfig.from_dict(config.to_dict()) == config

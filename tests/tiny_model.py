"""A tokenizer and models small enough for tests of a second, with nothing to download."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from model.checkpoint import Checkpoint, save_checkpoint, weights_of
from model.config import LMConfig
from model.decoder import CausalLM
from model.tokenizer import SPECIAL_TOKENS, ChatTokenizer, seedling_files

TEXTS = [
    "The capital of France is Paris. The capital of Japan is Tokyo. The little fox eats red berries.",
    "中国的首都是北京。日本的首都是东京。小狐狸吃红色的浆果。",
    "What is the capital of France? Paris. 法国的首都是哪里？巴黎。",
]


@cache
def tiny_tokenizer(vocab_size: int = 340) -> ChatTokenizer:
    """A byte-level BPE of our shape: few merges, so that most Chinese characters take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return ChatTokenizer.from_files(seedling_files(tokenizer.to_str(), max_seq_len=128))


@cache
def byte_tokenizer(max_seq_len: int) -> ChatTokenizer:
    """The special tokens and one token a byte: every text has ids that a test can work out."""
    vocabulary = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    definition = json.loads(tokenizer.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    definition["added_tokens"] = [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)]
    return ChatTokenizer.from_files(seedling_files(json.dumps(definition), max_seq_len))


def tiny_config(**changes: Any) -> LMConfig:
    values: dict[str, Any] = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "max_seq_len": 128,
        "multiple_of": 16,
    }
    return LMConfig(**{**values, "vocab_size": tiny_tokenizer().vocab_size, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> CausalLM:
    """A random model. Its weights are large, so that the next token depends on the context."""
    torch.manual_seed(seed)
    model = CausalLM(tiny_config(**changes))
    model.initialize(std=0.4)
    return model.to(dtype).eval()


def transformers_twin(model: CausalLM) -> LlamaForCausalLM:
    """The same weights in transformers' Llama."""
    config = model.config
    assert config.hidden_dim is not None
    twin: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.hidden_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_seq_len,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=1,
        )
    )
    twin.load_state_dict(model.state_dict())
    return twin.to(model.lm_head.weight.dtype).eval()


def save_tiny_checkpoint(path: Path, model: CausalLM | None = None, stage: str = "full_sft") -> Path:
    """A `.pth` as a stage leaves it."""
    model = model or tiny_model(dtype=torch.float32)
    save_checkpoint(path, Checkpoint(stage, model.config, weights_of(model), tiny_tokenizer().files))
    return path

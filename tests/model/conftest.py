"""One small bilingual tokenizer for the tests of this room, and what transformers makes of its folder."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model.tokenizer import SPECIAL_TOKENS, ChatTokenizer, seedling_files

TEXTS = [
    "The capital of France is Paris. The capital of Japan is Tokyo.\n\nWhat is the capital of France?",
    "法国的首都是巴黎。日本的首都是东京。\n法国的首都是哪里？",
    'You are a helpful assistant. {"name": "weather", "arguments": {"city": "Paris"}}',
    "im_start im_end user assistant system tool think endoftext <| |> < > <|x|>",
]


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * 5, trainer)
    return ChatTokenizer.from_files(seedling_files(core.to_str(), max_seq_len=512))


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: ChatTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def hf_tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tokenizer_folder)

"""Samples: the same prompts each time, and a training that does not notice them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset.packing import PackedSet, PackedSetWriter
from tests.tiny_model import tiny_model, tiny_tokenizer
from trainer.samples import PLAIN_PROMPT_TOKENS, generate_samples, sample_prompts

MAX_SEQ_LEN = 64


def write_set(folder: Path, kind: str, rows: list[list[tuple[list[int], list[bool] | None]]]) -> PackedSet:
    """A set whose rows hold these segments: tokens, and which of them are trained."""
    folder.mkdir()
    tokenizer = tiny_tokenizer()
    writer = PackedSetWriter(folder, kind, MAX_SEQ_LEN, tokenizer.vocab_size, pad_token_id=1)
    for row in rows:
        pieces: list[Any] = [
            (np.array(tokens, np.uint16), None if mask is None else np.array(mask), 0, 0) for tokens, mask in row
        ]
        writer.add_row(pieces)
    writer.finish(tokenizer, {"name": folder.name, "sources": ["a"], "num_documents": len(rows)})
    return PackedSet.open(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """Each row: the end of a document, then a longer one."""
    encode = tiny_tokenizer().encode
    rows: list[Any] = [
        [([*encode("the end."), 0], None), ([0, *encode(f"{number} foxes eat red berries and sleep"), 0], None)]
        for number in range(10)
    ]
    return write_set(tmp_path_factory.mktemp("sets") / "plain", "pretrain", rows)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """Each row: a short conversation and a longer one of two answers."""
    encode = tiny_tokenizer().encode
    rows: list[Any] = []
    for number in range(10):
        question, answer = encode(f"question {number}?"), encode("Paris.")
        turn = [2, *question, 3, *answer, 3]
        mask = [False] * (len(question) + 2) + [True] * (len(answer) + 1)
        rows.append([([2, *answer, 3], [False, *[True] * len(answer), True]), (turn + turn, mask + mask)])
    return write_set(tmp_path_factory.mktemp("sets") / "chats", "sft", rows)


def test_plain_prompts_are_the_beginnings_of_documents(plain: PackedSet) -> None:
    expected = [[0, *tiny_tokenizer().encode(f"{number} foxes eat red berries and sleep")] for number in (1, 5, 8)]
    assert sample_prompts(plain) == [tokens[:PLAIN_PROMPT_TOKENS] for tokens in expected]
    assert sample_prompts(plain) == sample_prompts(plain) and len(sample_prompts(plain, 100)) == 10


def test_a_conversation_is_cut_before_its_first_answer(chats: PackedSet) -> None:
    expected = [[2, *tiny_tokenizer().encode(f"question {number}?"), 3] for number in (1, 5, 8)]
    assert sample_prompts(chats) == expected


def test_a_long_prompt_leaves_room_for_an_answer(tmp_path: Path) -> None:
    mask = [False] * 60 + [True] * 4
    packed = write_set(tmp_path / "long", "sft", [[(list(range(64, 128)), mask)]])
    (prompt,) = sample_prompts(packed)
    assert prompt == list(range(64, 124))[-MAX_SEQ_LEN // 2 :]
    untrained = write_set(tmp_path / "none", "sft", [[(list(range(64, 80)), [False] * 16)]])
    assert sample_prompts(untrained) == []


def test_texts_repeat_and_training_does_not_notice(plain: PackedSet) -> None:
    model, tokenizer = tiny_model(dropout=0.1).train(), tiny_tokenizer()
    prompts, state = sample_prompts(plain), torch.get_rng_state()
    samples = generate_samples(model, tokenizer, prompts, seed=1, max_new_tokens=12)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert samples == generate_samples(model, tokenizer, prompts, seed=1, max_new_tokens=12)
    assert samples != generate_samples(model, tokenizer, prompts, seed=2, max_new_tokens=12)
    assert [sample["prompt"] for sample in samples] == [tokenizer.decode(prompt) for prompt in prompts]
    assert any(sample["text"] for sample in samples)
    # What inference mode touched must not be in the way of the next backward pass.
    input_ids = torch.tensor([prompts[0]])
    model(input_ids, targets=input_ids).token_losses.sum().backward()
    assert generate_samples(model, tokenizer, [], seed=1) == []

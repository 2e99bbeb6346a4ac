"""What a model writes while it trains: the same few prompts each time, so that the texts can be compared."""

from collections.abc import Sequence

import numpy as np

from dataset.mixed_set import AnySet
from inference.engine import generate
from inference.sampling_params import SamplingParams
from model.decoder import CausalLM
from model.head import IGNORED
from model.tokenizer import ChatTokenizer

PLAIN_PROMPT_TOKENS = 16
# Some chance, as when a finished model is used: the most probable text of a small model soon runs in circles.
TEMPERATURE, TOP_P = 0.7, 0.9


def sample_prompts(packed: AnySet, count: int = 3) -> list[list[int]]:
    """Prompts from evenly spaced rows: of a conversation all before the first answer, of plain text its beginning.

    The same set gives the same prompts. There may be fewer than `count`, or none, where rows or targets are few.
    """
    count = min(count, packed.num_rows)
    rows = [packed.num_rows * (2 * number + 1) // (2 * count) for number in range(count)]
    prompts = []
    for row in rows:
        batch = {name: array[0] for name, array in packed.batch(np.array([row])).items()}
        prompt = _prompt_of_row(batch, is_plain=packed.kind == "pretrain")
        if prompt:
            # Room is left for an answer, at the cost of a long prompt's beginning.
            prompts.append(prompt[-(packed.max_seq_len // 2) :])
    return prompts


def _prompt_of_row(row: dict[str, np.ndarray], is_plain: bool) -> list[int]:
    """The prompt from the longest segment of a row: a row often begins with the end of a document."""
    segment_ids = row["segment_ids"]
    lengths = np.bincount(segment_ids[segment_ids >= 0])
    if not len(lengths):
        return []
    places = np.flatnonzero(segment_ids == lengths.argmax())
    tokens = row["input_ids"][places]
    if is_plain:
        # A part of a short document: whatever there is to continue stays.
        return tokens[: min(PLAIN_PROMPT_TOKENS, (len(tokens) + 1) // 2)].tolist()
    trained = np.flatnonzero(row["targets"][places] != IGNORED)
    return tokens[: trained[0] + 1].tolist() if len(trained) else []


def generate_samples(
    model: CausalLM, tokenizer: ChatTokenizer, prompts: Sequence[Sequence[int]], seed: int, max_new_tokens: int = 64
) -> list[dict[str, str]]:
    """Continue each prompt; the same weights and seed give the same texts.

    Neither torch's random state nor the model's training mode is changed. To be called outside of autocast, with
    whole weights (under ZeRO-3 they have to be gathered first).

    Returns:
        for each prompt {"prompt": its text, "text": what follows}, without special tokens.
    """
    params = SamplingParams(max_new_tokens=max_new_tokens, temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
    completions = generate(model, tokenizer, prompts, params)
    return [
        {"prompt": tokenizer.decode(prompt).strip(), "text": completion.text}
        for prompt, completion in zip(prompts, completions, strict=True)
    ]

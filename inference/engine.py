"""Generation: read the prompts once (prefill), then one token a step for all (decode), until each has ended.

The functions are small and know nothing of terminals or servers: `2-eval.py`, the exams, the trainer's
samples and the server all speak through them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from inference.detokenizer import Detokenizer
from inference.sampling import choose_tokens, random_source
from inference.sampling_params import SamplingParams
from model.decoder import CausalLM
from model.errors import UserError
from model.kv_cache import KVCache
from model.tokenizer import ChatTokenizer

PREFILL_CHUNK = 512  # tokens of each prompt read at once: bounds the memory of long prompts


@dataclass(frozen=True)
class Completion:
    """A finished answer; neither text nor ids contain what ended it, a stop string or stop token."""

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]  # the model (or a stop string) ended it, or its space was used up
    num_prompt_tokens: int


class Answer:
    """One sequence on its way: what it holds so far, its random numbers, and whether and why it has ended."""

    def __init__(
        self,
        prompt: Sequence[int],
        tokenizer: ChatTokenizer,
        params: SamplingParams,
        max_seq_len: int,
        index: int = 0,
    ) -> None:
        """UserError if the prompt is empty or leaves no room; answers that share a seed differ by `index`."""
        check_prompt(prompt, max_seq_len)
        self.token_ids = list(prompt)  # prompt and answer
        self.num_prompt_tokens = len(prompt)
        self.max_length = min(len(prompt) + params.max_new_tokens, max_seq_len)
        self.detokenizer = Detokenizer(tokenizer, params.stop)
        self.random = random_source(params.seed, index)
        self.finish_reason: Literal["stop", "length"] | None = None
        chosen = tokenizer.stop_token_ids if params.stop_token_ids is None else params.stop_token_ids
        self._stop_token_ids = frozenset(chosen)

    def add(self, token_id: int) -> str:
        """Take the next token; returns the text that has become certain."""
        if token_id in self._stop_token_ids:
            self.finish_reason = "stop"
            return self.detokenizer.finish()
        self.token_ids.append(token_id)
        piece = self.detokenizer.add(token_id)
        if not self.detokenizer.found_stop and len(self.token_ids) >= self.max_length:
            self.finish_reason = "length"
            piece += self.detokenizer.finish()
        if self.detokenizer.found_stop:  # also when the very last characters completed it
            self.finish_reason = "stop"
        return piece

    def completion(self) -> Completion:
        """The finished answer."""
        assert self.finish_reason is not None, "the answer has not ended yet"
        answer = self.token_ids[self.num_prompt_tokens :]
        return Completion(self.detokenizer.text, answer, self.finish_reason, self.num_prompt_tokens)


def generate(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> list[Completion]:
    """Answer every prompt, `batch_size` at a time; the order is that of the prompts.

    An answer does not depend on the others: prompt number i has its own random numbers, made from the seed
    and i (or `indices[i]`). Logits of a batch may differ from those of one sequence in the last bit, which
    matters only where two tokens are all but tied.

    Raises:
        UserError: when a prompt is empty or does not fit the model's context, before anything is generated.
    """
    max_seq_len = model.config.max_seq_len
    indices = range(len(prompts)) if indices is None else indices
    answers = [
        Answer(prompt, tokenizer, params, max_seq_len, index) for prompt, index in zip(prompts, indices, strict=True)
    ]
    # Neighbours of about the same length need little padding.
    waiting = sorted(answers, key=lambda answer: answer.num_prompt_tokens)
    with tqdm(total=len(answers), unit="answer", disable=not show_progress) as progress:
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            for _ in run(model, batch, params):
                pass
            progress.update(len(batch))
    return [answer.completion() for answer in answers]


def stream(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    index: int = 0,
) -> Iterator[str]:
    """Answer one prompt piece by piece; the pieces join to the text that `generate` gives.

    A piece is whole characters and never (part of) a stop string. UserError as in `generate`.
    """
    answer = Answer(prompt, tokenizer, params, model.config.max_seq_len, index)
    for pieces in run(model, [answer], params):
        if pieces[0]:
            yield pieces[0]


def run(model: CausalLM, answers: Sequence[Answer], params: SamplingParams) -> Iterator[list[str]]:
    """Decode `answers` together to their ends; after each step yields the new text of each (in their order).

    A sequence that has ended leaves the batch, so that the others no longer pay for it.
    """
    running = list(range(len(answers)))
    # The last token of an answer is never read again, but one slot more costs nothing.
    capacity = max(answer.max_length for answer in answers)
    logits, cache = prefill(model, [answer.token_ids for answer in answers], capacity)
    while True:
        draws = [answers[number].random.random() for number in running]
        histories = [answers[number].token_ids for number in running]
        tokens = choose_tokens(logits, histories, params, draws)
        pieces = [""] * len(answers)
        for number, token in zip(running, tokens, strict=True):
            pieces[number] = answers[number].add(token)
        yield pieces
        rows = [row for row, number in enumerate(running) if answers[number].finish_reason is None]
        if not rows:
            return
        if len(rows) < len(running):
            running = [running[row] for row in rows]
            cache.select(rows)
        logits = decode(model, [answers[number].token_ids[-1] for number in running], cache)


@torch.inference_mode()
def prefill(
    model: CausalLM, prompts: Sequence[Sequence[int]], capacity: int, chunk_size: int = PREFILL_CHUNK
) -> tuple[Tensor, KVCache]:
    """Read prompts of any lengths; returns the logits after each one's end [batch, vocab] and the cache.

    `capacity` is the most tokens that a sequence will hold, answer included.
    """
    weight = model.model.embed_tokens.weight
    cache = KVCache(model.config, len(prompts), capacity, weight.device, weight.dtype)
    last_logits = None
    for start in range(0, max(map(len, prompts), default=0), chunk_size):
        chunks = [list(prompt[start : start + chunk_size]) for prompt in prompts]
        lengths = [len(chunk) for chunk in chunks]
        # Padding on the right is written to a slot that nobody reads: any id will do.
        padded = [chunk + [0] * (max(lengths) - len(chunk)) for chunk in chunks]
        input_ids = torch.tensor(padded, device=weight.device)
        with _evaluating(model):
            output = model(input_ids, kv_cache=cache, chunk_lengths=lengths, logits="last")
        assert output.logits is not None
        if last_logits is None:
            last_logits = output.logits
        else:  # rows that ended in an earlier chunk keep their logits
            has_read = torch.tensor(lengths, device=weight.device)[:, None] > 0
            last_logits = torch.where(has_read, output.logits, last_logits)
    assert last_logits is not None, "prefill needs a prompt"
    return last_logits, cache


@torch.inference_mode()
def decode(model: CausalLM, tokens: Sequence[int], cache: KVCache) -> Tensor:
    """Read one more token of each sequence; returns the logits after it [batch, vocab]."""
    input_ids = torch.tensor(tokens, device=cache.keys.device)[:, None]
    with _evaluating(model):
        logits = model(input_ids, kv_cache=cache, logits="last").logits
    assert logits is not None
    return logits


def check_prompt(prompt: Sequence[int], max_seq_len: int) -> None:
    """Raise UserError unless the prompt has a token and leaves room for one more in the context."""
    if not prompt:
        raise UserError("the prompt is empty: nothing to continue")
    if len(prompt) >= max_seq_len:
        raise UserError(
            f"the prompt has {len(prompt)} tokens, but the model's context holds {max_seq_len}, "
            "answer included; shorten the prompt"
        )


@contextmanager
def _evaluating(model: CausalLM) -> Iterator[None]:
    """No dropout meanwhile. The trainer samples from the model that it trains, so the mode is put back."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()

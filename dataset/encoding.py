"""Blocks of raw rows → token ids, in this process or in several: parse, convert, clean, encode.

Everything here works on one block and knows nothing of the others, so any number of workers gives the same
result; what needs the whole input (duplicates, the validation split, packing) happens in
`dataset/building.py`, in order.
"""

import json
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from dataset.cleaning import CleaningRules, clean_text, digest, failed_rule
from dataset.conversations import BadRow, Conversation, contents, to_conversation, to_preference, to_text
from dataset.sources import Block, Reject, Row, parse_block
from model.chat import EncodedChat, encode_conversation
from model.errors import UserError
from model.files import canonical_json
from model.tokenizer import ChatTokenizer

TOO_LONG = "longer than a row"
NOTHING_TO_TRAIN = "nothing to train"
_SAMPLE_CHARS = 200


@dataclass(frozen=True)
class EncodingSettings:
    """What a worker must know besides the tokenizer."""

    kind: str  # pretrain, sft or dpo
    max_seq_len: int
    text_key: str
    rules: CleaningRules
    labels: Mapping[str, str]  # file → the source its rows belong to, unless a row names its own


@dataclass
class EncodedBlock:
    """The documents of a block (conversations, pairs), their tokens end to end, and what was left out."""

    path: str
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    mask: np.ndarray | None = None  # like tokens; None where everything trains
    lengths: list[tuple[int, ...]] = field(default_factory=list)  # tokens of each side of each document
    lines: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    rows_in: Counter[str] = field(default_factory=Counter)  # by source
    rejected: list[Reject] = field(default_factory=list)  # rows that could not be read or converted
    dropped: list[Reject] = field(default_factory=list)  # good rows that a rule left out
    num_straddling: int = 0


class BlockEncoder:
    """Encodes blocks, one after another, with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, settings: EncodingSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self._dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32

    def __call__(self, block: Block) -> EncodedBlock:
        """Encode one block. UserError: the file was cut."""
        encoded = EncodedBlock(block.path)
        documents: list[tuple[Row, Any]] = []
        for row in parse_block(block):
            label = self._label(row)
            encoded.rows_in[label] += 1
            if isinstance(row, Reject):
                encoded.rejected.append(row)
                continue
            try:
                document, text = self._convert(row.value)
            except BadRow as error:
                encoded.rejected.append(_left_out(row, error.reason, error.detail))
                continue
            rule = failed_rule(text, self.settings.rules)
            if rule is not None:
                encoded.dropped.append(_left_out(row, rule, f"{len(text)} characters"))
            else:
                documents.append((row, document))
        if self.settings.kind == "pretrain":
            self._encode_texts(encoded, documents)
        else:
            self._encode_chats(encoded, documents)
        return encoded

    def _convert(self, value: dict[str, Any]) -> tuple[Any, str]:
        """The document in a row, and the text of it that the rules look at."""
        if self.settings.kind == "pretrain":
            text = clean_text(to_text(value, self.settings.text_key))
            return text, text
        convert = to_preference if self.settings.kind == "dpo" else to_conversation
        conversation = convert(value)
        return conversation, contents(conversation)

    def _label(self, row: Row | Reject) -> str:
        own = row.value.get("source") if isinstance(row, Row) else None
        return own if isinstance(own, str) and own else self.settings.labels[row.path]

    def _add(self, encoded: EncodedBlock, row: Row, lengths: tuple[int, ...], text: str) -> None:
        encoded.lengths.append(lengths)
        encoded.lines.append(row.line)
        encoded.sources.append(self._label(row))
        encoded.digests.append(digest(text))

    def _encode_texts(self, encoded: EncodedBlock, documents: list[tuple[Row, str]]) -> None:
        opener, closer = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        assert closer is not None, "checked before the build began"
        opener = closer if opener is None else opener  # some foreign tokenizers have no token that opens
        ids: list[int] = []
        encoded_texts = self.tokenizer.encode_batch([text for _, text in documents])
        for (row, text), tokens in zip(documents, encoded_texts, strict=True):
            ids += [opener, *tokens, closer]
            self._add(encoded, row, (len(tokens) + 2,), text)
        encoded.tokens = np.array(ids, self._dtype)

    def _encode_chats(self, encoded: EncodedBlock, documents: list[tuple[Row, Conversation]]) -> None:
        ids: list[int] = []
        mask: list[bool] = []
        for row, conversation in documents:
            try:
                sides = self._sides(conversation)
            except UserError as error:  # what the template says against this conversation
                encoded.rejected.append(_left_out(row, "refused by the chat template", str(error)))
                continue
            longest = max(len(side.token_ids) for side in sides)
            if longest > self.settings.max_seq_len + 1:
                detail = f"{longest} tokens, a row holds {self.settings.max_seq_len + 1}"
                encoded.dropped.append(_left_out(row, TOO_LONG, detail))
                continue
            if not all(any(side.loss_mask[1:]) for side in sides):
                encoded.dropped.append(_left_out(row, NOTHING_TO_TRAIN, "the loss mask is empty"))
                continue
            for side in sides:
                ids += side.token_ids
                mask += side.loss_mask
                encoded.num_straddling += side.num_straddling
            self._add(encoded, row, tuple(len(side.token_ids) for side in sides), canonical_json(conversation))
        encoded.tokens, encoded.mask = np.array(ids, self._dtype), np.array(mask, bool)

    def _sides(self, conversation: Conversation) -> list[EncodedChat]:
        """A conversation encoded; of a preference pair both sides, the answer alone trained."""
        messages, tools = conversation["messages"], conversation.get("tools")
        if "chosen" not in conversation:
            return [encode_conversation(self.tokenizer, messages, tools)]
        sides = []
        for side in ("chosen", "rejected"):
            chat = encode_conversation(self.tokenizer, [*messages, conversation[side]], tools)
            sides.append(EncodedChat(chat.token_ids, last_turn_only(chat.loss_mask), chat.num_straddling))
        return sides


def last_turn_only(mask: list[bool]) -> list[bool]:
    """A loss mask of which only the last run of True is left.

    Preference pairs compare two answers; the earlier turns are part of the question, equal on both sides.
    """
    end = len(mask) - mask[::-1].index(True) if True in mask else 0
    start = end
    while start and mask[start - 1]:
        start -= 1
    return [start <= i < end for i in range(len(mask))]


def encode_blocks(
    blocks: Iterable[Block], tokenizer: ChatTokenizer, settings: EncodingSettings, num_workers: int
) -> Generator[EncodedBlock, None, None]:
    """Encode blocks in their order; with 0 workers in this process.

    Only a few blocks are on their way at any time, however long the input is. Close the generator (or exhaust
    it) to end the workers.
    """
    if num_workers == 0:
        yield from map(BlockEncoder(tokenizer, settings), blocks)
        return
    # Started afresh, not forked: the tokenizer's threads do not survive a fork, and macOS and Linux behave
    # alike.
    multiprocessing.resource_tracker.ensure_running()  # now, because starting it resets the signal mask
    executor = ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), _start_worker, (tokenizer, settings)
    )
    on_their_way: deque[Future[EncodedBlock]] = deque()
    try:
        for block in blocks:
            # Ctrl-C reaches every process of the terminal. Workers inherit this mask and leave it to us.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                on_their_way.append(executor.submit(_encode_in_worker, block))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            if len(on_their_way) > 3 * num_workers:
                yield on_their_way.popleft().result()
        while on_their_way:
            yield on_their_way.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, probably for lack of memory; try again with fewer (--num_workers)"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_worker_encoder: BlockEncoder | None = None


def _start_worker(tokenizer: ChatTokenizer, settings: EncodingSettings) -> None:
    global _worker_encoder  # noqa: PLW0603 - the one way to give a pool's process something to keep
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_encoder = BlockEncoder(tokenizer, settings)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Not even `kill -9` of the main process leaves workers behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode_in_worker(block: Block) -> EncodedBlock:
    assert _worker_encoder is not None
    return _worker_encoder(block)


def _left_out(row: Row, reason: str, detail: str) -> Reject:
    sample = json.dumps(row.value, ensure_ascii=False)[:_SAMPLE_CHARS]
    return Reject(row.path, row.line, reason, detail, sample.encode("utf-8", "replace").decode("utf-8"))

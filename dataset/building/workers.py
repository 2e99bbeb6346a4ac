"""Encoding blocks in this process or in several, in the blocks' order."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from dataset.building.encoding import BlockEncoder, EncodedBlock, EncodingSettings
from dataset.reading.formats import Block
from model.errors import UserError
from model.tokenizer import ChatTokenizer

_PROGRAM_DIR = Path(__file__).resolve().parents[2]  # where our packages lie
_FOR_TEMPLATES = ["transformers.utils.chat_template_utils"]


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
    # Not forked from here: the tokenizer's threads do not survive a fork. A fresh process loads the libraries once,
    # and the workers are forked from that one, so they start at once and share its memory.
    multiprocessing.resource_tracker.ensure_running()  # now, because starting it resets the signal mask
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["dataset.building.encoding", *([] if settings.kind == "pretrain" else _FOR_TEMPLATES)]
    )
    _start_fork_server()
    executor = ProcessPoolExecutor(num_workers, context, _start_worker, (tokenizer, settings))
    on_their_way: deque[Future[EncodedBlock]] = deque()
    try:
        for block in blocks:
            with _signals_held_back():
                try:
                    on_their_way.append(executor.submit(_encode_in_worker, block))
                except (BrokenPipeError, EOFError) as error:
                    raise BrokenProcessPool("the process that starts the workers is gone") from error
            if len(on_their_way) > 3 * num_workers:
                yield on_their_way.popleft().result()
        while on_their_way:
            yield on_their_way.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, probably for lack of memory; run the same command with fewer (--num_workers): "
            "it goes on with what is finished"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_fork_server() -> None:
    """Start the process that forks the workers where it finds our packages.

    Before Python 3.14 it looks for what it loads in the current folder, not on our path: the user's `dataset/`
    there, the usual place of raw data, would be taken for our package, in every worker too.
    """
    users_dir = Path.cwd()
    os.chdir(_PROGRAM_DIR)
    try:
        with _signals_held_back():
            multiprocessing.forkserver.ensure_running()
    finally:
        os.chdir(users_dir)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end: an executor that is stopped half-way into starting a process hangs.

    Ctrl-C reaches every process of the terminal. Workers that are started in here inherit the mask, so they leave
    it to us. The mask alone would not do: another thread may get the signal, and Python acts on it in this one.
    """
    received: list[int] = []
    earlier = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for number, handler in earlier.items():
            signal.signal(number, handler)
    for waiting in received:
        signal.raise_signal(waiting)


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

"""Many prompts in one file, their answers in another: JSON lines in, JSON lines out."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.engine import check_prompt, generate
from inference.sampling_params import SamplingParams
from model.chat import encode_prompt
from model.decoder import CausalLM
from model.errors import UserError
from model.files import atomic_path, read_json_lines
from model.tokenizer import ChatTokenizer


def read_requests(path: str | Path) -> list[dict[str, Any]]:
    """Read rows of {"prompt": text} or {"messages": [{"role", "content"}, …]}; other keys are kept.

    UserError names the first bad line: a file of requests is written by a program, so one bad row means a
    mistake in all of them.
    """
    requests = [_request(row, place) for place, row in read_json_lines(path)]
    if not requests:
        raise UserError(f'{path}: empty; expected JSON lines with "prompt" or "messages"')
    return requests


def _request(row: dict[str, Any], place: str) -> dict[str, Any]:
    if ("prompt" in row) == ("messages" in row):
        found = ", ".join(row) or "none"
        raise UserError(f'{place}: expected one of the keys "prompt" and "messages", found {found}')
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise UserError(f"{place}: `prompt` must be text, found {type(row['prompt']).__name__}")
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise UserError(f'{place}: `messages` must be a list of {{"role", "content"}} objects')
    return row


def encode_request(
    tokenizer: ChatTokenizer, request: Mapping[str, Any], *, chat: bool, system: str | None = None
) -> list[int]:
    """The prompt's token ids; with `chat`, a bare prompt is a user's message. Messages are always a chat.

    `system` opens every chat that has no system message of its own.
    """
    if "messages" not in request and not chat:
        return encode_completion(tokenizer, request["prompt"])
    messages = request.get("messages") or [{"role": "user", "content": request.get("prompt", "")}]
    if system is not None and messages[0].get("role") != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return encode_prompt(tokenizer, messages)


def encode_completion(tokenizer: ChatTokenizer, text: str) -> list[int]:
    """A text to be continued, opened as every document of the training text was."""
    opener = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return opener + tokenizer.encode(text)


def answer_requests(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    requests: Sequence[Mapping[str, Any]],
    params: SamplingParams,
    *,
    chat: bool,
    system: str | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
) -> list[dict[str, Any]]:
    """Answer all requests, each row with its own keys and those of `Completion`.

    A request that cannot be answered (too long for the context, refused by the chat template) gets an `error`
    instead, and costs the others nothing.
    """
    rows: list[dict[str, Any]] = [dict(request) for request in requests]
    prompts: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        try:
            prompt = encode_request(tokenizer, request, chat=chat, system=system)
            check_prompt(prompt, model.config.max_seq_len)
        except UserError as error:
            rows[number]["error"] = str(error)
        else:
            prompts[number] = prompt
    completions = generate(
        model,
        tokenizer,
        list(prompts.values()),
        params,
        indices=list(prompts),
        batch_size=batch_size,
        show_progress=show_progress,
    )
    for number, completion in zip(prompts, completions, strict=True):
        rows[number] |= asdict(completion)
    return rows


def write_rows(path: str | Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write answered rows as JSON lines, to standard output without a path; says how many had an error."""
    lines = "".join(f"{_json_line(row)}\n" for row in rows)
    if path is None:
        sys.stdout.write(lines)
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(lines, encoding="utf-8", newline="\n")
    failed = [(number, row["error"]) for number, row in enumerate(rows, start=1) if "error" in row]
    if failed:
        first, error = failed[0]
        print(f"warning: {len(failed)} of {len(rows)} not answered; number {first}: {error}", file=sys.stderr)


def _json_line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    # A lone surrogate, which JSON can carry as \ud800, has no UTF-8 form: such a row keeps its escapes.
    return line if _is_unicode(line) else json.dumps(row)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

"""Conversations and small helpers that the tests of chat encoding share."""

import json
from itertools import cycle
from typing import Any

from model.chat import EncodedChat
from model.tokenizer import ChatTokenizer

IM_START, IM_END = 2, 3

SYSTEM = {"role": "system", "content": "You are a helpful assistant.\n\nBe brief."}
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris. 巴黎 👨‍👩‍👧 é\n\n- one\n-  two"},
    {"role": "user", "content": "法国的首都是哪里？"},
    {"role": "assistant", "content": "法国的首都是巴黎。"},
]


def messages_of(*contents: str) -> list[dict[str, str]]:
    roles = cycle(["user", "assistant"])
    return [{"role": next(roles), "content": content} for content in contents]


def trained_texts(tokenizer: ChatTokenizer, chat: EncodedChat) -> list[str]:
    """The text of every unbroken run of trained tokens."""
    runs: list[list[int]] = [[]]
    for token, trained in zip(chat.token_ids, chat.loss_mask, strict=True):
        if trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


def replaced(tokenizer: ChatTokenizer, template: str, tokenizer_json: str | None = None) -> ChatTokenizer:
    """The same tokenizer with another template (and vocabulary)."""
    files = {**tokenizer.files, "chat_template.jinja": template}
    if tokenizer_json is not None:
        files["tokenizer.json"] = tokenizer_json
    return ChatTokenizer.from_files(files)


def with_merge(tokenizer: ChatTokenizer, left: str, right: str) -> str:
    """The tokenizer.json with one more merge."""
    definition = json.loads(tokenizer.files["tokenizer.json"])
    definition["model"]["vocab"].setdefault(left + right, len(definition["model"]["vocab"]))
    if [left, right] not in definition["model"]["merges"]:
        definition["model"]["merges"].append([left, right])
    return json.dumps(definition)

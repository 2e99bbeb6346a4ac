"""Properties of `dataset/conversations.py`: what a conversion must keep, and what data must never do."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.conversations import BadRow, Conversation, to_conversation, to_preference
from model.chat import encode_conversation
from model.tokenizer import ChatTokenizer
from tests.model.chat_examples import IM_END, trained_texts


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation["messages"]]


# ---- what data must never do ----


@pytest.mark.parametrize(
    "text",
    [
        "open('{path}', 'w')",
        "[[__import__('pathlib').Path('{path}').touch(), 'a']]",
        "[('q', 'a')] if open('{path}', 'w') else []",
        "[f\"{{open('{path}', 'w')}}\", 'a']",
        "(lambda: open('{path}', 'w'))()",
    ],
)
def test_a_history_is_read_and_never_run(text: str, tmp_path: Path) -> None:
    path = tmp_path / "made"
    for field in ("history", "conversations", "tools"):
        with pytest.raises(BadRow):
            to_conversation({"q": "q", "a": "a", field: text.format(path=path)})
    assert not path.exists()


@pytest.mark.parametrize("text", ["[" * 200_000, "(" * 200_000, "-" * 200_000 + "1", "9" * 200_000, "[1," * 90_000])
def test_a_history_of_brackets_ends_nothing(text: str) -> None:
    with pytest.raises(BadRow, match="broken JSON inside a field"):
        to_conversation({"q": "q", "a": "a", "history": text})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "conversations", "conversation", "instruction", "input", "output", "q", "a", "history"]
FIELDS += ["system", "tools", "prompt", "chosen", "rejected", "question", "answer", "A", "B", "C", "D"]
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "function_call"]) | JSON, "content": JSON},
    optional={"tool_calls": JSON, "tools": JSON, "from": JSON, "value": JSON, "reasoning_content": JSON},
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(TURN | JSON, max_size=4), max_size=8))
def test_any_row_is_converted_or_a_bad_row(row: dict[str, Any]) -> None:
    for convert in (to_conversation, to_preference):
        try:
            conversation = convert(row)
        except BadRow:
            continue
        json.dumps(conversation, ensure_ascii=False).encode()


# ---- what a conversion must keep ----

# Texts as people write them, control tokens and line ends of all kinds included; never a transcript's first word.
PIECES = [
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<think>",
    "</think>",
    "\n",
    "\r\n",
    '"',
    "'",
    "\\",
    "{",
    "猫",
    "é",
    " ",
    "🙂",
]
WORDS = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), max_size=6)
TEXT = WORDS.map("".join).map(str.strip).filter(lambda text: text and not text.startswith(("<think>", "Human")))
EXCHANGES = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)

ROLE_PAIR = ("user", "assistant")
FORMS: dict[str, Any] = {
    "messages": lambda pairs: {
        "messages": [{"role": r, "content": t} for p in pairs for r, t in zip(ROLE_PAIR, p, strict=True)]
    },
    "sharegpt": lambda pairs: {
        "conversations": [{"from": r, "value": t} for p in pairs for r, t in zip(("human", "gpt"), p, strict=True)]
    },
    "pairs": lambda pairs: {"conversation": [{"human": q, "assistant": a} for q, a in pairs]},
    "alpaca": lambda pairs: {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1], "history": pairs[:-1]},
    "q a": lambda pairs: {"q": pairs[-1][0], "a": pairs[-1][1], "history": json.dumps(pairs[:-1])},
    "python": lambda pairs: {
        "q": pairs[-1][0],
        "a": pairs[-1][1],
        "history": repr([list(pair) for pair in pairs[:-1]]),
    },
}


@given(EXCHANGES)
def test_a_conversation_survives_every_form(pairs: list[tuple[str, str]]) -> None:
    expected = [(role, text) for pair in pairs for role, text in zip(ROLE_PAIR, pair, strict=True)]
    for name, form in FORMS.items():
        conversation = to_conversation(form(pairs))
        assert said(conversation) == expected, name
        assert to_conversation(conversation) == conversation  # what is ours already stays as it is


@given(EXCHANGES)
def test_what_is_said_reaches_the_model(tokenizer: ChatTokenizer, pairs: list[tuple[str, str]]) -> None:
    conversation = to_conversation(FORMS["alpaca"](pairs))
    chat = encode_conversation(tokenizer, conversation["messages"])
    assert chat.token_ids.count(IM_END) == 2 * len(pairs)  # nothing that was typed ended a turn
    assert trained_texts(tokenizer, chat) == [f"{answer}<|im_end|>" for _, answer in pairs]
    whole = tokenizer.decode(chat.token_ids, skip_special_tokens=False)
    assert whole == "".join(
        f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n" for q, a in pairs
    )


@given(TEXT, TEXT, TEXT)
def test_a_preference_pair_survives_every_form(prompt: str, chosen: str, rejected: str) -> None:
    ask, good, bad = (FORMS["messages"]([(prompt, answer)])["messages"] for answer in ("-", chosen, rejected))
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        {"prompt": ask[:1], "chosen": good[1:], "rejected": bad[1:]},
        {"chosen": good, "rejected": bad},
        {
            "conversations": [{"from": "human", "value": prompt}],
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
        },
    ]
    for row in rows:
        if chosen == rejected:
            with pytest.raises(BadRow, match="chosen equals rejected"):
                to_preference(row)
            continue
        pair = to_preference(row)
        assert said(pair) == [("user", prompt)]
        assert (pair["chosen"]["content"], pair["rejected"]["content"]) == (chosen, rejected)
        assert to_preference(pair) == pair

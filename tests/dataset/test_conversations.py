import json
from pathlib import Path
from typing import Any

import pytest

from dataset.conversations import BadRow, contents, to_conversation, to_preference, to_text
from dataset.sources import Row, read_rows


def said(conversation: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation["messages"]]


TWO_TURNS = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": r, "content": c} for r, c in TWO_TURNS]},
        {"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in TWO_TURNS]},
        {"conversations": [{"from": {"user": "human", "assistant": "gpt"}[r], "value": c} for r, c in TWO_TURNS]},
        {"conversations": [{"from": {"user": "human", "assistant": "yayi"}[r], "value": c} for r, c in TWO_TURNS]},
        {"conversations": [{"role": r, "content": c} for r, c in TWO_TURNS], "system": ""},
        {"conversations": json.dumps([{"from": r, "value": c} for r, c in TWO_TURNS])},  # a column of a CSV
        {"instruction": "q2", "input": "", "output": "a2", "history": [["q1", "a1"]]},
        {"instruction": " q2\n", "output": "\ta2 ", "history": [[" q1", "a1 "]]},
        {"q": "q2", "a": "a2", "history": [["q1", "a1"]]},
        {"q": "q2", "a": "a2", "history": "[['q1', 'a1']]"},  # Python, as old CSV files have it
        {"q": "q2", "a": "a2", "history": '[["q1", "a1"]]'},
    ],
)
def test_every_form_gives_the_same_conversation(row: dict[str, Any]) -> None:
    assert said(to_conversation(row)) == TWO_TURNS


def test_alpaca_input_goes_below_the_instruction() -> None:
    row = {"system": "Be kind.", "instruction": "Translate.", "input": "猫", "output": "cat"}
    assert said(to_conversation(row)) == [
        ("system", "Be kind."),
        ("user", "Translate.\n猫"),
        ("assistant", "cat"),
    ]
    assert said(to_conversation({"instruction": "", "input": "猫?", "output": "cat"}))[0] == ("user", "猫?")


def test_an_empty_system_message_is_none() -> None:
    messages = [{"role": "system", "content": " "}, {"role": "user", "content": "q"}]
    messages += [{"role": "assistant", "content": "a"}]
    assert said(to_conversation({"messages": messages})) == [("user", "q"), ("assistant", "a")]


def test_tool_calls_of_both_worlds() -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    sharegpt = {
        "tools": json.dumps([{"name": "add"}]),
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "2."},
        ],
    }
    openai = {
        "tools": [{"name": "add"}],
        "messages": [
            {"role": "user", "content": "1+1?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "x", "function": {"name": "add", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "2."},
        ],
    }
    assert to_conversation(sharegpt) == to_conversation(openai)
    assert to_conversation(openai)["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]


PROMPT = [{"from": "human", "value": "q"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"},
        {
            "conversations": PROMPT,
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {
            "prompt": "q",
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
        },
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
    ],
)
def test_every_form_of_a_preference_pair(row: dict[str, Any]) -> None:
    pair = to_preference(row)
    assert said(pair) == [("user", "q")]
    assert pair["chosen"] == {"role": "assistant", "content": "good"}
    assert pair["rejected"] == {"role": "assistant", "content": "bad"}
    assert contents(pair) == "q\ngood\nbad"


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, "not a conversation"),
        ({}, "not a conversation"),
        ({"messages": "hello"}, "broken JSON inside a field"),
        ({"messages": {"role": "user"}}, "wrong type"),
        ({"messages": ["x"]}, "wrong type"),
        ({"messages": []}, "no turn at all"),
        ({"messages": [{"role": "user", "content": 3}]}, "wrong type"),
        ({"messages": [{"role": "user", "content": None}]}, "wrong type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong type"),
        ({"messages": [{"content": "x"}]}, "unknown role"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown role"),
        (turns("user"), "no assistant turn"),
        (turns("assistant", "user"), "wrong role order"),
        (turns("user", "user", "assistant"), "wrong role order"),
        (turns("user", "assistant", "system"), "wrong role order"),
        (turns("user", "tool"), "wrong role order"),
        ({"instruction": "q", "output": " \n"}, "empty content"),
        ({"instruction": "", "output": "a"}, "empty content"),
        ({"instruction": "q", "output": None}, "wrong type"),
        ({"instruction": "q", "input": ["x"], "output": "a"}, "wrong type"),
        ({"q": "q", "a": "a", "history": "[[1"}, "broken JSON inside a field"),
        ({"q": "q", "a": "a", "history": "__import__('os').abort()"}, "broken JSON inside a field"),
        ({"q": "q", "a": "a", "history": [["only one"]]}, "wrong type"),
        ({"q": "q", "a": "a", "history": {"q": "a"}}, "wrong type"),
        ({"q": "q\ud800", "a": "a"}, "not Unicode text"),
        ({**turns("user", "assistant"), "tools": "[1]"}, "wrong type"),
        ({"conversations": [*PROMPT, {"from": "function_call", "value": "{}"}]}, "broken tool call"),
    ],
)
def test_rows_that_cannot_be_trained_on(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_conversation(row)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "a"}, "not a preference pair"),
        ({"chosen": "a", "rejected": "b"}, "not a preference pair"),
        ({"prompt": "q", "chosen": "a", "rejected": " a"}, "chosen equals rejected"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "empty content"),
        ({"prompt": "q", "chosen": "a", "rejected": []}, "empty content"),
        ({"prompt": "q", "chosen": "a", "rejected": {"from": "human", "value": "b"}}, "wrong role order"),
        (
            {"prompt": "q", "chosen": "a", "rejected": turns("user", "assistant")["messages"]},
            "chosen and rejected answer different prompts",
        ),
    ],
)
def test_pairs_that_cannot_be_trained_on(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_preference(row)
    assert caught.value.reason == reason


def test_text_rows() -> None:
    assert to_text({"text": " x "}) == "x"
    assert to_text({"body": "x"}, "body") == "x"
    for row, reason in (
        ({"body": "x"}, "no field 'text'"),
        ({"text": 3}, "wrong type"),
        ({"text": None}, "wrong type"),
    ):
        with pytest.raises(BadRow) as caught:
            to_text(row)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("folder", "convert", "bad"),
    [("instruct", to_conversation, 6), ("tools", to_conversation, 0), ("preference", to_preference, 0)],
)
def test_real_files_load_without_a_flag(real_data: Path, folder: str, convert: Any, bad: int) -> None:
    reasons = []
    for row in read_rows([real_data / folder]):
        assert isinstance(row, Row)
        try:
            convert(row.value)
        except BadRow as error:
            reasons.append(error.reason)
    assert reasons == ["empty content"] * bad  # six rows of alpaca_zh_10k have an empty output

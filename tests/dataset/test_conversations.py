import json
from pathlib import Path
from typing import Any

import pytest

from dataset.cleaning import Cleaner, CleaningRules
from dataset.conversations import BadRow, contents, exam_question, to_conversation, to_preference, to_text
from dataset.messages import texts_of
from dataset.reading.formats import Row, parse_block
from dataset.sources import find_inputs


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
        {"q": "q2", "a": "a2", "history": "[('q1', 'a1')]"},
        {"q": "q2", "a": "a2", "history": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]},
        {"q": "q2", "a": "a2", "history": ["q1", "a1"]},
        {"query": "q2", "response": "a2", "history": [["q1", "a1"]]},
        {"prompt": "q2", "response": "a2", "history": [{"human": "q1", "assistant": "a1"}]},
        {"input": "q2", "target": "a2", "history": [["q1", "a1"]], "kind": "chat"},
        {"question": "q2", "answer": "a2", "history": [["q1", "a1"]]},
        {"instruction": "Human: q1\nAssistant: a1\nHuman: q2\nAssistant:", "input": "", "output": "a2"},
        {"instruction": "\n\nHuman:q1\n\nAssistant:a1\n\nHuman:q2", "output": "a2"},
        {"conversation": [{"human": "q1", "assistant": "a1"}, {"human": "q2", "assistant": "a2"}]},
        {"conversations": [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]},
        {"conversations": ["q1", "a1", "q2", "a2"]},
        # A row of a table has every field, null where it has none.
        {
            "messages": None,
            "conversations": None,
            "instruction": "q2",
            "input": None,
            "output": "a2",
            "history": "[['q1', 'a1']]",
        },
        {
            "messages": [
                {"role": r, "content": c, "from": None, "value": None, "tool_calls": None} for r, c in TWO_TURNS
            ]
        },
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
    openai: dict[str, Any] = {
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
    assert to_conversation(openai)["tools"] == [{"type": "function", "function": {"name": "add"}}]
    # As an OpenAI client would send it, and as it was called at first.
    openai["tools"] = [{"type": "function", "function": {"name": "add"}}]
    openai["messages"][1] = {"role": "assistant", "content": None, "function_call": call}
    openai["messages"][2] = {"role": "function", "name": "add", "content": 2}
    assert to_conversation(sharegpt) == to_conversation(openai)


def test_calls_one_after_another_are_one_turn() -> None:
    calls = [{"from": "function_call", "value": json.dumps({"name": "add", "arguments": {"a": n}})} for n in (1, 2)]
    turns = [*PROMPT, {"from": "gpt", "value": "I add."}, *calls, {"from": "observation", "value": "3"}]
    conversation = to_conversation({"conversations": [*turns, {"from": "gpt", "value": "3."}]})
    assert [role for role, _ in said(conversation)] == ["user", "assistant", "tool", "assistant"]
    spoken = conversation["messages"][1]
    assert spoken["content"] == "I add."
    assert [call["function"]["arguments"] for call in spoken["tool_calls"]] == [{"a": 1}, {"a": 2}]


def test_tools_that_hang_on_the_system_message() -> None:
    system = {"role": "system", "content": "Be brief.\n\n# Tools\n[...]", "tools": '[{"name": "add"}]'}
    messages = [system, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    conversation = to_conversation({"messages": messages})
    assert conversation["tools"] == [{"type": "function", "function": {"name": "add"}}]
    assert conversation["messages"][0] == {"role": "system", "content": "Be brief."}


def test_reasoning_inside_a_content_is_set_apart() -> None:
    row = {"instruction": "q", "output": "<think>\nLet me see.\n</think>\n\na"}
    answer = {"role": "assistant", "content": "a", "reasoning_content": "Let me see."}
    assert to_conversation(row)["messages"][1] == answer
    assert to_conversation({**row, "output": "<think>\n\n</think>a"})["messages"][1] == {
        "role": "assistant",
        "content": "a",
    }
    twice = to_conversation({**row, "output": "<think>one</think><think>two</think>a"})
    assert twice["messages"][1]["content"] == "<think>two</think>a"
    assert to_conversation(twice) == twice
    with pytest.raises(BadRow, match="empty content"):
        to_conversation({**row, "output": "<think>only this</think>"})


def test_an_exam_row_shows_its_choices() -> None:
    row = {"id": "0", "question": "1+1?", "A": "1", "B": 2, "C": "3", "D": "4", "answer": "B", "explanation": ""}
    assert said(to_conversation(row)) == [("user", "1+1?\nA. 1\nB. 2\nC. 3\nD. 4"), ("assistant", "B")]
    del row["answer"]
    assert exam_question(row) == "1+1?\nA. 1\nB. 2\nC. 3\nD. 4"
    with pytest.raises(BadRow, match="exam without an answer"):
        to_conversation(row)
    assert exam_question({"question": "1+1?", "answer": "2"}) is None


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
        {"prompt": "q", "chosen": "good", "reject": "bad"},
        {"question": "q", "chosen": "good", "rejected": "bad", "system": ""},
        {"prompt": "Human: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {
            "prompt": "q",
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
            # The good conversation again, for those who want to tune on it.
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        },
    ],
)
def test_every_form_of_a_preference_pair(row: dict[str, Any]) -> None:
    pair = to_preference(row)
    assert said(pair) == [("user", "q")]
    assert pair["chosen"] == {"role": "assistant", "content": "good"}
    assert pair["rejected"] == {"role": "assistant", "content": "bad"}
    assert contents(pair) == "q\ngood\nbad"


def test_all_that_a_message_says() -> None:
    answer = {"role": "assistant", "content": "I look.", "reasoning_content": "Where is it?"}
    inner = {"tags": ["a", {"b": None}], "count": 3, "exact": True}
    calls = [{"name": "find", "arguments": {"query": "the door", "more": inner}}, {"name": "stop", "arguments": {}}]
    row = {
        "messages": [{"role": "user", "content": "q"}, answer | {"tool_calls": calls}],
        "tools": [{"name": "secret"}],
    }
    made = to_conversation(row)
    call = ["find", "query", "more", "tags", "count", "exact", "b", "the door", "a", "null", "3", "true"]
    assert texts_of(made["messages"][1]) == ["Where is it?", "I look.", "\n".join(call), "stop"]
    assert "door" in contents(made) and "Where" in contents(made) and "secret" not in contents(made)


@pytest.mark.parametrize("depth", [1, 100, 101, 600, 900, 100_000])
def test_arguments_may_be_nested_but_not_without_end(depth: int) -> None:
    arguments = '{"a": ' * depth + '"a@b.com"' + "}" * depth
    row = {"conversations": [{"from": "human", "value": "q"}, call_with(arguments)]}
    if depth > 100:
        with pytest.raises(BadRow):
            to_conversation(row)
    else:
        cleaned = Cleaner(CleaningRules(mask_personal_data="all")).clean_conversation(to_conversation(row))
        assert cleaned.text.endswith("a\n[mail address]")


def call_with(arguments: str) -> dict[str, Any]:
    return {"from": "function_call", "value": json.dumps({"name": "add", "arguments": arguments})}


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, "not a conversation"),
        ({}, "not a conversation"),
        ({"messages": "hello"}, "broken JSON inside a field"),
        ({"messages": {"role": "user"}}, "wrong type"),
        ({"messages": [3]}, "wrong type"),
        ({"messages": [["one", "two", "three"]]}, "wrong type"),
        ({"messages": ["x"]}, "no assistant turn"),
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
        ({"conversations": [*PROMPT, {"from": "function_call", "value": "[]"}]}, "broken tool call"),
        ({"conversations": [*PROMPT, call_with("[1]")]}, "broken tool call"),
        ({"conversations": [*PROMPT, call_with("{'a': {1, 2}}")]}, "broken JSON inside a field"),
        ({"conversations": [*PROMPT, call_with('{"a": "\\ud800"}')]}, "broken JSON inside a field"),
        ({**turns("user", "assistant"), "tools": "[{'name': b'add'}]"}, "broken JSON inside a field"),
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
    assert to_text({"text": "    x = 1\n"}) == "    x = 1\n", "the rule `strip` decides, not the reader"
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
    ("folder", "convert", "good", "bad"),
    [
        ("instruct", to_conversation, 12110, 6),
        ("tools", to_conversation, 300, 0),
        ("preference", to_preference, 600, 0),
    ],
)
def test_real_files_load_without_a_flag(real_data: Path, folder: str, convert: Any, good: int, bad: int) -> None:
    conversations, reasons, num_calls = [], [], 0
    for file in find_inputs([real_data / folder]):
        for row in (row for block in file.blocks() for row in parse_block(block)):
            assert isinstance(row, Row)
            num_calls += sum(turn["from"] == "function_call" for turn in row.value.get("conversations", []))
            try:
                conversations.append(convert(row.value))
            except BadRow as error:
                reasons.append(error.reason)
    assert reasons == ["empty content"] * bad  # six rows of alpaca_zh_10k have an empty output
    assert len(conversations) == good
    messages = [message for each in conversations for message in each["messages"]]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    assert len(calls) == num_calls and (num_calls > 200 or folder != "tools")
    assert all(call["name"] and isinstance(call["arguments"], dict) for call in calls)
    assert all(tool["function"]["name"] for each in conversations for tool in each.get("tools", []))

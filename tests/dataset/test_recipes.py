"""Every recipe, run on rows in the real schema of its set (the contents are invented)."""

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.conversations import BadRow, Conversation, to_conversation, to_preference, to_text
from dataset.reading.formats import Row, parse_block
from dataset.recipes import RECIPES, Recipe, recipe_named
from dataset.sources import find_inputs
from model.chat import encode_conversation
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.model.chat_examples import trained_texts

FIXTURES = Path(__file__).parent.parent / "fixtures" / "recipes"
CONVERT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pretrain": to_text,
    "sft": to_conversation,
    "dpo": to_preference,
    "exam": to_conversation,
}

# Of each file: how many rows are packed, and how many the recipe leaves out on purpose. The rest would be bad rows.
COUNTS = {
    "alpaca_en.jsonl": (3, 0),
    "alpaca_zh.json": (3, 0),
    "baike2018qa.json": (3, 0),
    "belle.conversations.jsonl": (2, 0),
    "belle.jsonl": (3, 0),
    "belle.multiturn.jsonl": (3, 0),
    "ceval.dev.csv": (2, 0),
    "ceval.test.csv": (0, 1),
    "ceval.val.csv": (2, 0),
    "cmmlu.csv": (3, 0),
    "coig.counterfactual.json": (1, 1),
    "coig.exam.jsonl": (3, 0),
    "coig.human_value.json": (2, 0),
    "coig.leetcode.jsonl": (2, 0),
    "coig.loader.jsonl": (1, 0),
    "coig.translated.jsonl": (2, 0),
    "deepctrl_sft.jsonl": (3, 0),
    "fineweb_edu.jsonl": (3, 0),
    "firefly.jsonl": (3, 0),
    "huozi.authors.csv": (2, 0),
    "huozi.json": (3, 0),
    "linksoul.jsonl": (3, 0),
    "luotuo.gpt4.jsonl": (2, 0),
    "luotuo.json": (2, 0),
    "minimind_dpo.jsonl": (3, 0),
    "minimind_dpo.v1.json": (2, 0),
    "minimind_pretrain.jsonl": (3, 0),
    "minimind_pretrain.v1.csv": (2, 0),
    "minimind_sft.jsonl": (3, 0),
    "minimind_sft.v1.csv": (3, 0),
    "moss_003.jsonl": (2, 0),
    "moss_003.plugins.json": (1, 0),
    "school_math.jsonl": (3, 0),
    "seq_monkey.jsonl": (3, 0),
    "sharegpt.90k.jsonl": (1, 0),
    "sharegpt.json": (3, 1),
    "skypile.jsonl": (3, 0),
    "tigerresearch_sft_zh.json": (3, 0),
    "tinystories.jsonl": (3, 0),
    "tinystories.valid.txt": (3, 0),
    "ultrachat.all.jsonl": (2, 0),
    "ultrachat.jsonl": (2, 0),
    "ultrafeedback.jsonl": (2, 0),
    "ultrafeedback.original.jsonl": (1, 1),
    "webtext2019zh.json": (3, 0),
}


def recipe_of(file: str) -> Recipe:
    return recipe_named(file.split(".")[0])


@cache
def raw_rows(file: str) -> tuple[dict[str, Any], ...]:
    """The rows of a fixture, read as any file of a user is."""
    (file_input,) = find_inputs([FIXTURES / file])
    rows = [row for block in file_input.blocks() for row in parse_block(block)]
    assert all(isinstance(row, Row) for row in rows), rows
    return tuple(row.value for row in rows if isinstance(row, Row))


def run(file: str) -> list[Any]:
    """What the recipe makes of each row, None for those that it leaves out."""
    recipe = recipe_of(file)
    rows = (recipe.convert(row) for row in raw_rows(file))
    return [None if row is None else CONVERT[recipe.kind](row) for row in rows]


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation["messages"]]


def test_every_recipe_has_a_fixture_and_every_fixture_a_recipe() -> None:
    files = {path.name for path in FIXTURES.iterdir()}
    assert files == set(COUNTS)
    assert {file.split(".")[0] for file in files} == set(RECIPES)


@pytest.mark.parametrize("file", COUNTS)
def test_a_recipe_reads_its_set(file: str) -> None:
    packed, left_out = COUNTS[file]
    before = json.dumps(raw_rows(file))
    results = run(file)
    assert json.dumps(raw_rows(file)) == before  # what was read is not changed, only what is made of it
    assert (len(results) - results.count(None), results.count(None)) == (packed, left_out)


@pytest.mark.parametrize("file", [file for file in COUNTS if recipe_of(file).kind != "pretrain"])
def test_what_is_trained_is_what_the_assistant_says(file: str, tokenizer: ChatTokenizer) -> None:
    for result in run(file):
        if result is None:
            continue
        answers = [result[side] for side in ("chosen", "rejected") if side in result] or [None]
        for answer in answers:
            messages = [*result["messages"], answer] if answer else result["messages"]
            chat = encode_conversation(tokenizer, messages, result.get("tools"))
            trained = trained_texts(tokenizer, chat)
            spoken = [message for message in messages if message["role"] == "assistant"]
            assert len(trained) == len(spoken)
            for text, message in zip(trained, spoken, strict=True):
                assert message["content"] in text and text.endswith("<|im_end|>")
                for call in message.get("tool_calls", []):
                    assert json.dumps(call["function"]["arguments"], ensure_ascii=False) in text


@pytest.mark.parametrize(
    ("file", "number", "conversation"),
    [
        (
            "belle.multiturn.jsonl",
            0,
            ["推荐一种适合阳台的花。", "可以种天竺葵，它不怕晒。", "多久浇一次水？", "土干了再浇，大约三天一次。"],
        ),
        ("belle.multiturn.jsonl", 1, ["写一句关于雪的话。", "雪落在屋顶上，没有一点声音。"]),
        ("baike2018qa.json", 0, ["多肉植物多久浇一次水？", "夏天两周一次，\n\n冬天一个月一次。"]),
        ("baike2018qa.json", 1, ["冰为什么浮在水上", "冰的密度比水小。"]),
        ("baike2018qa.json", 2, ["象棋里马怎么走？\n刚学象棋，总是走错。", "马走日字，蹩脚时不能走。"]),
        (
            "webtext2019zh.json",
            0,
            [
                "第一次做蛋糕要注意什么？\n家里只有一个小烤箱。\n没有打蛋器。",
                "先称好所有的材料，再预热烤箱。\n蛋白可以用手打。",
            ],
        ),
        ("webtext2019zh.json", 1, ["夜里看星星去哪里好？", "去没有路灯的山上，记得带厚衣服 & 手电筒。"]),
        (
            "coig.exam.jsonl",
            0,
            [
                "从四个选项中选出正确的一个。\n光在下列哪种介质里走得最快？A. 水 B. 玻璃 C. 真空 D. 冰",
                "C\n光在真空里最快，所以选C。",
            ],
        ),
        (
            "coig.exam.jsonl",
            1,
            ["阅读短文，回答问题。\n老船工把桨靠在门边，望着河水。\n老船工把桨放在哪里？", "门边。"],
        ),
        (
            "coig.leetcode.jsonl",
            0,
            ["用 Python 写出题目的解法。\n给定两个整数，返回它们的和。", "def add(a, b):\n    return a + b"],
        ),
        (
            "coig.leetcode.jsonl",
            1,
            ["解释这段代码。\n代码如下：\n\nfor i in range(3):\n    print(i)", "它依次打印 0、1、2。"],
        ),
        ("coig.translated.jsonl", 0, ["判断这种动物是否生活在水里。\n鲸鱼", "是"]),
        (
            "coig.counterfactual.json",
            0,
            ["月亮自己会发光吗？", "不会，它反射太阳的光。", "可是我听说它会发光。", "那是误会，月亮不发光。"],
        ),
        ("coig.loader.jsonl", 0, ["判断句子的情绪。\n今天的风真舒服！", "高兴。"]),
        ("deepctrl_sft.jsonl", 1, ["翻译成英语。\n苹果", "apple"]),
        (
            "deepctrl_sft.jsonl",
            2,
            ["这里什么点心最有名？", "最有名的是绿豆糕。", "那第二有名的呢？", "第二有名的是桂花糕。"],
        ),
        ("firefly.jsonl", 0, ["上联：春风入户\n下联：", "喜气盈门"]),
        ("luotuo.gpt4.jsonl", 1, ["数一数有几个词。\n一 二", "两个。"]),
        (
            "minimind_sft.v1.csv",
            1,
            [
                "你知道哪些蓝色的花吗？",
                "矢车菊和绣球花都是蓝色的。",
                "那么哪一种更容易种活呢？",
                '绣球花更容易，它喜欢"湿润"的土。',
            ],
        ),
        (
            "minimind_sft.v1.csv",
            2,
            [
                "有没有叫“it's spring”的歌？",
                "有，是一首\n关于春天的歌。",
                "请问这首歌什么时候唱最好？",
                "春天来的时候\\n唱最好。",
            ],
        ),
        ("moss_003.jsonl", 0, ["帮我给新店起个名字。", "可以叫“慢慢来”。", "有英文的吗？", "Take Your Time。"]),
        ("sharegpt.json", 0, ["What is a haiku?", "A short poem of three lines."]),
        ("sharegpt.json", 1, ["One more line, please.", "A heron waits without a sound."]),
        ("sharegpt.90k.jsonl", 0, ["下雨天做什么好？", "可以在家煮汤。", "煮什么汤？", "冬瓜排骨汤。"]),
        (
            "ultrachat.all.jsonl",
            0,
            [
                "Why do leaves fall?",
                "The tree saves water in winter.",
                "Do all trees lose them?",
                "No, pines keep theirs.",
            ],
        ),
        (
            "ceval.dev.csv",
            0,
            ["下列哪一个是哺乳动物？\nA. 鲸\nB. 鲨\nC. 章鱼\nD. 海星", "A\n1. 鲸用肺呼吸。\n2. 所以选A。"],
        ),
        ("ceval.val.csv", 0, ["下列数中最大的是____。\nA. 3\nB. 7\nC. 5\nD. 1", "B"]),
        ("cmmlu.csv", 1, ["下列哪一种是乐器\nA. 算盘\nB. 琵琶\nC. 砚台\nD. 屏风", "B"]),
    ],
)
def test_a_row_becomes_this_conversation(file: str, number: int, conversation: list[str]) -> None:
    # Among them: a description that repeats the title, and chats cut at the ends: a question that nobody answered,
    # an answer whose question is in another row.
    roles = ["user", "assistant"] * (len(conversation) // 2)
    assert said(run(file)[number]) == list(zip(roles, conversation, strict=True))


def test_texts() -> None:
    assert run("tinystories.jsonl")[0] == "Mia had a small red kite. She ran up the hill.\n\nThe kite went up, up, up!"
    assert run("tinystories.valid.txt")[2] == "It rained all day.\nLily drew a boat."
    joined = run("minimind_pretrain.jsonl")
    assert joined[1] == "怎样给植物浇水？见干见湿，浇就浇透。\n\n早睡早起对身体有好处。"
    assert joined[2] == "茶要趁热喝。\n\nTea is best while it is hot."
    assert run("minimind_pretrain.v1.csv")[1] == "老师说：“把书翻到第十页。”\n大家都翻开了书。"


def test_moss_plugins_become_tool_calls() -> None:
    (conversation,) = run("moss_003.plugins.json")
    assert [tool["function"]["name"] for tool in conversation["tools"]] == ["Search", "Calculate"]
    roles = [message["role"] for message in conversation["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"] * 2
    _, call, result, answer = conversation["messages"][:4]
    assert call["reasoning_content"] == "这是加法，可以用计算器。"
    assert call["tool_calls"][0]["function"] == {"name": "Calculate", "arguments": {"expression": "6+9"}}
    assert result["content"] == 'Calculate("6+9") => 15'
    assert answer["content"] == "一共15个苹果。"
    queries = [each["function"]["arguments"]["query"] for each in conversation["messages"][5]["tool_calls"]]
    assert queries == ["甜苹果 产地", '苹果 "甜"']
    assert conversation["messages"][-1]["content"] == "昼夜温差大的山区。"  # the mark of a citation says nothing


def test_minimind_tools_and_reasoning() -> None:
    _, tools, reasoning = run("minimind_sft.jsonl")
    assert tools["tools"][0]["function"]["name"] == "count_words"
    # The system message held nothing but the list of tools, which the chat template writes itself.
    assert [message["role"] for message in tools["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert tools["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"text": "风 雨 云"}
    assert reasoning["messages"][1] == {
        "role": "assistant",
        "content": "五。",
        "reasoning_content": "二和三合起来是五。",
    }


def test_preference_pairs() -> None:
    huozi = run("huozi.json")[0]
    assert huozi["chosen"]["content"] == "先说清楚错在哪里。\n再说打算怎么改。"
    assert huozi["rejected"]["content"] == "随便写写。"
    assert len(run("minimind_dpo.jsonl")[2]["messages"]) == 3
    binarized = run("ultrafeedback.jsonl")[0]
    assert said(binarized) == [("user", "Why is the sky dark at night?")]
    assert binarized["rejected"]["content"] == "Because it sleeps."
    # The worst by its four ratings is the one whose overall score of 1 had become a 10.
    original = run("ultrafeedback.original.jsonl")[0]
    assert original["chosen"]["content"] == "A spider has eight legs."
    assert original["rejected"]["content"] == "Six, like a fly."


def test_rows_name_the_part_of_the_set_that_they_come_from() -> None:
    rows = [recipe_named("firefly").convert(row) for row in raw_rows("firefly.jsonl")]
    assert [row and row["source"] for row in rows] == [
        "firefly/Couplet",
        "firefly/ClassicalChinese",
        "firefly/Couplet",
    ]


def test_an_unknown_recipe_names_one_like_it() -> None:
    with pytest.raises(UserError, match=r"no recipe 'belly' \(did you mean belle\?\); .* --recipe list shows all"):
        recipe_named("belly")
    with pytest.raises(UserError, match=r"no recipe 'qqq'; python data_process.py --recipe list"):
        recipe_named("qqq")


def test_linksoul_has_a_system_message_where_its_instruction_says_something() -> None:
    convert = recipe_named("linksoul").convert
    turns = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b."}]
    assert [
        (convert({"conversations": turns, "instruction": said}) or {})["messages"][0]["role"]
        for said in ("", " ", None, "Be kind.")
    ] == ["user", "user", "user", "system"]
    assert convert({"conversations": turns[:1], "instruction": "Be kind."}) is None  # nobody answered


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_says_where_its_set_lies_and_travels_to_workers(recipe: Recipe) -> None:
    assert recipe.kind in CONVERT and recipe.title and recipe.licence and recipe.languages
    assert all(path.startswith(("hf:", "ms:")) for path in recipe.data_path)
    assert recipe.data_path or "by hand: https://" in recipe.note
    assert pickle.loads(pickle.dumps(recipe)) == recipe


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def spoilt(value: Any, data: st.DataObject) -> Any:
    """The same value with something else in one place, or with one thing missing."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        changed = value.copy()
        if data.draw(st.integers(0, 5)):
            changed[key] = spoilt(value[key], data)
        else:
            del changed[key]
        return changed
    return data.draw(JSON)


@pytest.mark.parametrize("file", COUNTS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_spoilt_row_is_a_bad_row_and_nothing_worse(file: str, data: st.DataObject) -> None:
    recipe = recipe_of(file)
    row = spoilt(data.draw(st.sampled_from(raw_rows(file))), data)
    if not isinstance(row, dict):
        return  # the reader refuses it before any recipe sees it
    try:
        converted = recipe.convert(row)
        result = None if converted is None else CONVERT[recipe.kind](converted)
    except BadRow:
        return
    assert result is None or json.dumps(result).encode()

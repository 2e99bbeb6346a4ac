import csv
import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset import decontamination
from dataset.decontamination import Decontaminator, describe
from dataset.held_out import Item, items_of
from model.errors import UserError

ENGLISH = "A ferry leaves the small harbour every ninety minutes between early morning and the last evening train"
HAN = "渡轮每隔九十分钟从小港口出发，从清晨一直开到最后一班夜车到站为止"  # 31 characters


def made_of(*items: Item | str, **lengths: int) -> Decontaminator:
    made = Decontaminator(**lengths)
    made.add([Item(item) if isinstance(item, str) else item for item in items], "exam.csv")
    made.finish()
    return made


def letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


# ---- runs ----


def test_thirteen_words_in_a_row_are_found_and_twelve_are_not() -> None:
    held_out, words = made_of(ENGLISH), ENGLISH.split()
    assert held_out.match("Before. " + " ".join(words[2:15]) + " after") == " ".join(words[2:15]).lower()
    assert held_out.match("Before. " + " ".join(words[2:14]) + " after") is None
    broken = [*words[:8], "slow", *words[8:]]
    assert held_out.match(" ".join(broken)) is None


def test_twenty_characters_in_a_row_are_found_and_nineteen_are_not() -> None:
    held_out, plain = made_of(HAN), letters(HAN)
    assert letters(held_out.match(f"有人说{plain[3:23]}。") or "") == plain[3:23]
    assert held_out.match(f"有人说{plain[3:22]}。") is None


def test_case_marks_space_and_unicode_variants_do_not_count() -> None:
    held_out = made_of(ENGLISH, HAN)
    assert held_out.match(ENGLISH.upper().replace(" ", "\n -- "))
    assert held_out.match("".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in ENGLISH))
    assert held_out.match("、".join(HAN).replace("，", ""))


@given(st.integers(0, 10), st.integers(20, 31), st.text("abc 好,", max_size=30), st.text("abc 好,", max_size=30))
def test_agrees_with_a_search_for_every_run(start: int, end: int, before: str, after: str) -> None:
    plain = letters(HAN)
    text = before + plain[start:end] + after
    # Slowly and plainly: is any run of 20 characters of the held-out text in it? (Latin words break runs.)
    expected = any(plain[i : i + 20] in "".join(c for c in text if c not in " ,") for i in range(len(plain) - 19))
    assert (HELD_OUT_HAN.match(text) is not None) == expected


HELD_OUT_HAN = made_of(HAN)


def test_lengths_can_be_chosen() -> None:
    words = ENGLISH.split()
    assert made_of(ENGLISH, words=8).match(" ".join(words[:8]))
    assert not made_of(ENGLISH, words=16).match(" ".join(words[:15]))
    for bad in ({"words": 2}, {"characters": 5000}):
        with pytest.raises(UserError, match="--decontaminate_"):
            Decontaminator(**bad)


# ---- short questions, choices, habits ----


# So long as what is looked up first of every short question.
SHORTEST = ("Who painted the blue door?", "谁画了那扇蓝门呢")


def test_short_questions_are_found_as_a_whole() -> None:
    held_out = made_of(
        "What is the capital of Atlantis?", "哪座城市是亚特兰蒂斯的首都", "Who was Ada?", "一加一等于几", *SHORTEST
    )
    assert held_out.match("Q: what is the capital of atlantis A: none") == "what is the capital of atlantis"
    assert held_out.match("请问哪座城市是亚特兰蒂斯的首都呢？") == "哪座城市是亚特兰蒂斯的首都"
    assert held_out.match("He asked: who painted the blue door then?") == "who painted the blue door"
    # Their beginnings are no questions.
    assert held_out.match("What is the capital of Lemuria?") is None
    assert held_out.match("哪座城市是亚特兰蒂斯的港口") is None
    # A few words are no evidence inside a text, but as a whole message they are.
    assert held_out.match("They asked who was Ada and why.") is None
    assert held_out.find(["Who was Ada", "一加一等于几？", "那么一加一等于几"])[2] is None
    assert all(held_out.find(["Who was Ada", "一加一等于几？"]))


def test_short_questions_with_choices_need_them_unless_they_say_enough() -> None:
    choices = ("红色的苹果和绿色的梨", "蓝色的天空和白云", "黄色的香蕉", "黑色的夜晚")
    held_out = made_of(Item("静物画的核心是", choices), Item("在这幅静物画中光线的来源位于", choices))
    assert held_out.match("静物画的核心是" + "，".join(choices))
    assert held_out.match(
        "静物画的核心是____。\nA. " + "\n".join(f"{c}. {t}" for c, t in zip("ABCD", choices, strict=True))[3:]
    )
    assert held_out.match("静物画的核心是对光的观察，而不是对象本身，这一点画家们早就知道。") is None
    assert held_out.match("在这幅静物画中，光线的来源位于左上方。")
    # The choices alone may stand in any textbook.
    assert held_out.match("".join(choices)) is None


@pytest.mark.parametrize("count", [1, 2, 10, 11, 26, 27, 60])
def test_any_number_of_choices(count: int) -> None:
    choices = tuple(f"option{number} of them" for number in range(count))
    row = {"question": "Which one is right?", "choices": list(choices)}
    held_out = made_of(*items_of(row))
    labels = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *map(str, range(27, 61))]
    for prompt in (
        ["Which one is right?", *choices],
        ["Which one is right?", *(f"{label}. {text}" for label, text in zip(labels[:count], choices, strict=True))],
    ):
        assert held_out.match("Say: " + "\n".join(prompt))
    assert held_out.match("Which one is right? The first of them.") is None


def test_habits_of_an_exam_are_no_contamination() -> None:
    habit = "根据这部法律总则的规定下列关于当事人权利义务的说法正确的是"
    same_stem = [Item("下列关于这个问题的各种说法正确的是", (f"第{n}种说法" * 3,) * 4) for n in "甲乙丙丁"]
    many = made_of(
        *[f"{habit}第{n}条所说的情形包括哪些方面的内容和例外" for n in "一二三四五六七八九十百千"], *same_stem
    )
    assert many.match(f"教材写道：{habit}以下各项") is None
    assert many.match("下列关于这个问题的各种说法正确的是") is None
    assert many.match("第百条所说的情形包括哪些方面的内容和例外")
    # The same exam given twice is not many exams.
    assert made_of(*[habit] * 20).match(habit)


def test_short_answers_of_held_out_conversations_are_no_finds() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "请帮我写一首关于港口的诗"},
            {"role": "assistant", "content": "好的，我很乐意为您效劳"},
        ]
    }
    held_out = made_of(*items_of(row))
    assert held_out.match("好的，我很乐意为您效劳") is None
    assert held_out.match("请帮我写一首关于港口的诗")


# ---- many texts, long texts, conversations ----


def test_nothing_is_found_across_the_border_of_two_texts() -> None:
    held_out, plain = made_of(HAN), letters(HAN)
    assert held_out.find([plain[:15], plain[15:], "", plain]) == [None, None, None, held_out.find([plain])[0]]


@pytest.mark.parametrize("place", [0, 126_990, 130_000, 131_071, 400_000])
def test_long_texts_are_searched_everywhere(place: int) -> None:
    filler = "山川湖海日月星辰" * 60_000
    text = filler[:place] + letters(HAN) + filler[place:]
    assert HELD_OUT_HAN.match(text)
    assert HELD_OUT_HAN.match(filler) is None
    assert made_of("白" * 150_000 + HAN).match(f"他说{HAN}")  # and long held-out texts are taken in whole


def test_conversations_and_pairs() -> None:
    held_out = made_of(HAN)
    clean = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}
    dirty = {"messages": [{"role": "user", "content": HAN}, {"role": "assistant", "content": "好"}]}
    answer = {"role": "assistant", "content": HAN}
    pair = {"messages": clean["messages"][:1], "chosen": clean["messages"][1], "rejected": answer}
    found = held_out.find_conversations([clean, dirty, pair])
    assert [shared is not None for shared in found] == [False, True, True]
    assert found[1] is not None and "20 words or characters in a row are in exam.csv: 渡轮" in found[1].detail


def answer_with(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well.", **more}]}


def call_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": [{"type": "function", "function": {"name": "search", "arguments": arguments}}]}


SAID_ASIDE = {
    "reasoning": {"reasoning_content": f"Let me see. {ENGLISH}!"},
    "arguments": call_of({"query": ENGLISH}),
    "nested arguments": call_of({"filters": [{"limit": 3, "texts": ["a", ENGLISH]}]}),
    "a question and its choices": call_of({"question": " ".join(ENGLISH.split()[:9]), "of": ENGLISH.split()[9:]}),
}


@pytest.mark.parametrize("where", SAID_ASIDE)
def test_all_that_is_trained_is_searched(where: str) -> None:
    held_out = made_of(ENGLISH)
    conversation = answer_with(**SAID_ASIDE[where])
    pair = {"messages": conversation["messages"][:1], "chosen": conversation["messages"][1]}
    pair["rejected"] = {"role": "assistant", "content": "No."}
    assert all(held_out.find_conversations([conversation, pair]))
    assert held_out.find_conversations([answer_with()]) == [None]


@pytest.mark.parametrize("where", SAID_ASIDE)
def test_all_that_a_held_out_conversation_says_is_kept_out(where: str) -> None:
    held_out = made_of(*items_of(answer_with(**SAID_ASIDE[where])))
    assert held_out.match(ENGLISH)
    assert held_out.match("Well.") is None and held_out.match("search") is None


# ---- files ----


ROWS: dict[str, tuple[str, str]] = {
    "exam.csv": (f"id,question,A,B,C,D,answer\n0,{HAN},甲,乙,丙,丁,A\n", HAN),
    "test.csv": (f"id,question,A,B,C,D\n0,{HAN},甲,乙,丙,丁\n", HAN),
    "cmmlu.csv": (f",Question,A,B,C,D,Answer\n0,{HAN},甲,乙,丙,丁,A\n", HAN),
    "questions.jsonl": (
        json.dumps({"language": "zh", "relation": "r", "question": HAN, "key": "k", "others": []}),
        HAN,
    ),
    "text.jsonl": (json.dumps({"text": HAN}), HAN),
    "plain.txt": (f"{HAN}\n另外一行\n", HAN),
    "alpaca.json": (json.dumps([{"instruction": "翻译下面这句话", "input": HAN, "output": ENGLISH}]), ENGLISH),
    "qa.jsonl": (json.dumps({"q": HAN, "a": "好", "history": []}), HAN),
    "sharegpt.json": (
        json.dumps([{"conversations": [{"from": "human", "value": HAN}, {"from": "gpt", "value": "a"}]}]),
        HAN,
    ),
    "openai.jsonl": (
        json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": HAN}]}),
        HAN,
    ),
    "pair.jsonl": (json.dumps({"prompt": HAN, "chosen": ENGLISH, "rejected": "no"}), ENGLISH),
    "choices.jsonl": (json.dumps({"question": "Why?", "choices": [ENGLISH, "b"], "answer": 0}), f"Why? {ENGLISH}"),
}


@pytest.mark.parametrize("name", ROWS)
def test_all_formats_are_read(tmp_path: Path, name: str) -> None:
    content, planted = ROWS[name]
    (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    held_out = Decontaminator.from_files([tmp_path / name])
    found = held_out.find([f"前文。{planted}后文。", "毫不相干的一段文字，说的是另外一些事情，与考试没有任何关系。"])
    assert found[0] is not None and found[0].held_out.endswith(name)
    assert found[1] is None


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"number": 1, "label": 2}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"--decontaminate .*a\.jsonl: no question and no text.*number, label"):
        Decontaminator.from_files([tmp_path / "a.jsonl"])
    with pytest.raises(UserError, match=r"missing\.csv"):
        Decontaminator.from_files([tmp_path / "missing.csv"])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": HAN}) + '\n{"number": 1}\n{broken\n', encoding="utf-8")
    assert Decontaminator.from_files([tmp_path / "b.jsonl"]).num_unread == 2


def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontamination, "_MAX_BYTES", 2000)
    with pytest.raises(UserError, match=r"--decontaminate: .* GiB"):
        made_of(*[f"{HAN}{n}" for n in range(50)])


def test_the_description_changes_with_content_and_lengths(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"{HAN}\n", encoding="utf-8")
    before = describe([file])
    assert describe([file]) == before != describe([file], words=8)
    file.write_text(f"{ENGLISH}\n", encoding="utf-8")
    assert describe([file]) != before


# ---- to other processes ----


def test_it_travels_and_shares_pages(tmp_path: Path) -> None:
    held_out = made_of(HAN, ENGLISH, "What is the capital of Atlantis?")
    texts = [HAN, "nothing", ENGLISH, "what is the capital of Atlantis"]
    expected = held_out.find(texts)
    assert [shared is not None for shared in expected] == [True, False, True, True]
    assert pickle.loads(pickle.dumps(held_out)).find(texts) == expected
    big = made_of(*["".join(chr(0x4E00 + (i * 7 + j * j) % 20000) for j in range(900)) for i in range(20)])
    as_bytes = len(pickle.dumps(big))
    big.store(tmp_path)
    pickled = pickle.dumps(big)
    assert len(pickled) < 2000 < as_bytes
    assert pickle.loads(pickled).find(texts) == big.find(texts)


# ---- real data ----


@pytest.fixture(scope="module")
def ceval(real_data: Path) -> Decontaminator:
    return Decontaminator.from_files([real_data / "ceval" / "val"])


def test_planted_exam_questions_are_found(real_data: Path, ceval: Decontaminator) -> None:
    rows: list[dict[str, Any]] = []
    for path in sorted((real_data / "ceval" / "val").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    assert ceval.num_items == len(rows) == 1346
    prompts = [
        f"请回答下面的单选题。\n{row['question']}\n" + "\n".join(f"{x}. {row[x]}" for x in "ABCD") + "\n答案："
        for row in rows
    ]
    found = sum(shared is not None for shared in ceval.find(prompts))
    assert found == len(rows)


def test_poems_and_instructions_raise_no_false_alarm(real_data: Path, ceval: Decontaminator) -> None:
    with open(real_data / "text" / "poems.jsonl", encoding="utf-8") as file:
        poems = [json.loads(line)["text"] for line in islice(file, 10_000)]
    instructions = json.loads((real_data / "instruct" / "alpaca_zh_10k.json").read_text(encoding="utf-8"))
    answers = [row["output"] for row in instructions]
    assert [shared.detail for shared in ceval.find(poems + answers) if shared] == []

"""Reading questions, judging answers, and the whole exam with a model that knows some answers."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evaluation.exams import (
    ExamResult,
    Question,
    encode_question,
    exam_table,
    names_only,
    read_questions,
    run_exam,
    score_by_language,
)
from evaluation.statistics import wilson_interval
from inference.engine import generate
from inference.sampling_params import SamplingParams
from model.chat import encode_prompt
from model.errors import UserError
from tests.tiny_model import tiny_model, tiny_tokenizer

CAPITALS = ["Rome", "Tokyo", "London"]
ROW = {"language": "en", "relation": "capital", "question": "?", "key": "Paris", "others": CAPITALS}


# ---- judging ----


@pytest.mark.parametrize(
    ("text", "key", "others", "expected"),
    [
        # The key and no other, in any case and wording.
        ("The capital of France is Paris.", "Paris", CAPITALS, True),
        ("PARIS!", "Paris", CAPITALS, True),
        ("Paris, yes, Paris.", "Paris", CAPITALS, True),
        ("It is Paris or Rome.", "Paris", CAPITALS, False),
        ("It is Rome.", "Paris", CAPITALS, False),
        ("I do not know.", "Paris", CAPITALS, False),
        ("", "Paris", CAPITALS, False),
        # Words in Latin script only at word boundaries.
        ("It is Parisian.", "Paris", CAPITALS, False),
        ("Paris's streets", "Paris", CAPITALS, True),
        ("environment", "iron", ["gold"], False),
        ("red hair, not a redwood", "red", ["wood"], True),
        ("法国的首都是Paris。", "Paris", CAPITALS, True),
        ("Île-de-France", "France", ["Île"], False),
        ("über Öl", "Öl", ["über"], False),
        ("Zürich", "rich", ["poor"], False),
        # Chinese anywhere.
        ("法国的首都是巴黎。", "巴黎", ["罗马", "东京"], True),
        ("是巴黎不是罗马", "巴黎", ["罗马", "东京"], False),
        # A longer known name covers a shorter one inside it, and a key is not found inside another name.
        ("Papua New Guinea", "Papua New Guinea", ["Guinea", "New"], True),
        ("Papua New Guinea", "Guinea", ["Papua New Guinea"], False),
        ("Guinea and Papua New Guinea", "Guinea", ["Papua New Guinea"], False),
        ("Guinea and Papua New Guinea", "Papua New Guinea", ["Guinea"], False),
        ("十二", "十二", ["十", "二", "一"], True),
        ("十二", "二", ["十二", "十"], False),
        ("北京", "京", ["北京"], False),
        # Digits are words: 1 is not in 12, also in Chinese text.
        ("It is 12.", "12", ["1", "2"], True),
        ("It is 12.", "1", ["2", "3"], False),
        ("等于12。", "12", ["1", "2"], True),
        ("等于112。", "12", ["1", "2"], False),
        ("3月", "3", ["1", "2"], True),
        # Compatibility forms and white space.
        ("１２", "12", ["1"], True),
        ("Ｐａｒｉｓ", "Paris", CAPITALS, True),
        ("New\n York", "new york", ["york"], True),
        ("Straße", "STRASSE", ["x"], True),
        ("cafe\u0301", "café", ["tea"], True),
        # Names that overlap without one holding the other are both named.
        ("北京都", "北京", ["京都"], False),
    ],
)
def test_names_only(text, key, others, expected):
    assert names_only(text, key, others) is expected


names = st.text(alphabet="abAB 中国12", min_size=1, max_size=4).filter(str.strip)


@given(key=names, others=st.lists(names, max_size=4), seed=st.integers(0, 100))
def test_an_answer_of_the_key_alone_is_right_whatever_the_others(key, others, seed):
    same = " ".join(key.casefold().split())
    others = [name for name in others if " ".join(name.casefold().split()) != same]
    assert names_only(key, key, others)
    random.Random(seed).shuffle(others)
    for name in others:
        assert not names_only(f"{name}。{key}", key, others) or name.casefold() in key.casefold()
        assert not names_only(name, key, others)


# ---- reading ----


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_questions_are_read_with_bom_and_blank_lines(tmp_path):
    line = json.dumps({**ROW, "more": 1, "question": "a\u2028b"}, ensure_ascii=False)
    path = write_lines(tmp_path / "q.jsonl", "\ufeff" + line, "", line + "\r")
    assert read_questions(path) == [Question("en", "capital", "a\u2028b", "Paris", CAPITALS)] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "q.jsonl:2: not JSON"),
        ('["a"]', "q.jsonl:2: expected a JSON object, found list"),
        (json.dumps({**ROW, "key": None}), "q.jsonl:2: `key` must be text, found None"),
        (json.dumps({**ROW, "relation": "  "}), "q.jsonl:2: `relation` must be text"),
        (json.dumps({**ROW, "question": 3}), "q.jsonl:2: `question` must be text, found 3"),
        (json.dumps({k: v for k, v in ROW.items() if k != "others"}), "q.jsonl:2: `others` must be a list"),
        (json.dumps({**ROW, "others": "Rome"}), "q.jsonl:2: `others` must be a list of names, found 'Rome'"),
        (json.dumps({**ROW, "others": ["Rome", ""]}), "q.jsonl:2: `others` must be a list"),
        (json.dumps({**ROW, "others": ["PARIS"]}), "q.jsonl:2: the key 'Paris' is among `others`"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write_lines(tmp_path / "q.jsonl", json.dumps(ROW), line)
    with pytest.raises(UserError) as caught:
        read_questions(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_without_questions_are_named(tmp_path):
    with pytest.raises(UserError, match=r"missing\.jsonl: no such file"):
        read_questions(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: holds no questions"):
        read_questions(tmp_path / "empty.jsonl")
    (tmp_path / "gbk.jsonl").write_bytes("中文".encode("gbk"))
    with pytest.raises(UserError, match=r"gbk\.jsonl: not UTF-8"):
        read_questions(tmp_path / "gbk.jsonl")


# ---- the exam ----


def test_score_counts_per_language_and_relation():
    def answers(language: str, relation: str, rights: list[int]) -> list[dict[str, object]]:
        return [{"language": language, "relation": relation, "is_right": bool(right)} for right in rights]

    scores = score_by_language(
        answers("zh", "sum", [1, 1, 1]) + answers("en", "river", [0, 0, 0, 1]) + answers("en", "capital", [1, 0])
    )
    assert list(scores) == ["en", "zh"]
    assert scores["en"]["relations"]["river"]["accuracy"] == 0.25
    assert scores["en"]["macro_average"] == (0.25 + 0.5) / 2
    assert (scores["en"]["num_right"], scores["en"]["num_questions"]) == (2, 6)
    assert scores["en"]["interval"] == list(wilson_interval(2, 6))
    assert scores["zh"]["macro_average"] == 1


@pytest.fixture(scope="module")
def taught():
    """A tiny model that has learnt two of three answers by heart."""
    model, tokenizer = tiny_model(dtype=torch.float32), tiny_tokenizer()
    lessons = {
        "What is the capital of France?": "Paris",
        "日本的首都是哪里？": "东京",
        "and of Italy?": "Tokyo.",
    }
    model.initialize()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        for question, answer in lessons.items():
            prompt, reply = encode_question(tokenizer, question), [*tokenizer.encode(answer), 3]
            targets = torch.tensor([[-100] * (len(prompt) - 1) + reply])
            loss = model(torch.tensor([prompt + reply[:-1]]), targets=targets).token_losses.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), tokenizer


def test_an_exam_finds_what_the_model_knows(taught):
    model, tokenizer = taught
    questions = [
        Question("en", "capital", "What is the capital of France?", "Paris", CAPITALS),
        Question("en", "capital", "and of Italy?", "Rome", ["Paris", "Tokyo", "London"]),
        Question("zh", "capital", "日本的首都是哪里？", "东京", ["巴黎", "罗马"]),
        Question("zh", "long", "长" * 200, "短", ["长"]),
    ]
    result = run_exam(model, tokenizer, questions, batch_size=2)
    assert [answer["answer"] for answer in result.answers] == ["Paris", "Tokyo.", "东京", ""]
    assert [answer["is_right"] for answer in result.answers] == [True, False, True, False]
    assert [answer["finish_reason"] for answer in result.answers] == ["stop", "stop", "stop", "too_long"]
    assert result.num_too_long == 1
    assert result.languages["en"]["macro_average"] == 0.5
    assert result.languages["zh"]["macro_average"] == 0.5
    # The result survives JSON unchanged, and the table says it all.
    assert ExamResult(**json.loads(json.dumps(result.to_dict()))) == result
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(exam_table(result, "an exam"))
    text = console.export_text()
    for words in ("an exam", "capital", "macro average", "50.0%", "1 questions did not fit"):
        assert words in text


def test_an_exam_asks_in_chat_form_or_plainly_and_greedily(taught):
    model, tokenizer = taught
    question = "What is the capital of France?"
    chat = encode_prompt(tokenizer, [{"role": "user", "content": question}])
    plain = [0, *tokenizer.encode(question)]
    greedy = SamplingParams(temperature=0, max_new_tokens=9)
    for as_chat, prompt in ((True, chat), (False, plain)):
        result = run_exam(model, tokenizer, [Question("en", "r", question, "x", [])], chat=as_chat, max_new_tokens=9)
        expected = generate(model, tokenizer, [prompt], greedy)[0].text.strip()
        assert result.answers[0]["answer"] == expected

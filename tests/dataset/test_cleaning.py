import dataclasses
import json
import pickle
import re
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset.cleaning import (
    PRESETS,
    RULES,
    SAME_ANSWERS,
    UNSETTLED,
    Cleaned,
    Cleaner,
    CleaningRules,
)
from model.errors import UserError

# A threshold for each rule that makes it work hard.
ALL_ON: dict[str, Any] = {
    "remove_html": True,
    "remove_invisible": True,
    "unicode_form": "nfkc",
    "half_width": True,
    "remove_boilerplate": True,
    "max_line_repeats": 2,
    "tidy_space": True,
    "mask_personal_data": "all",
    "strip": True,
    "min_chars": 1,
    "max_chars": 10**9,
    "min_question_chars": 1,
    "max_question_chars": 10**9,
    "min_answer_chars": 1,
    "max_answer_chars": 10**9,
    "min_language_share": "zh:0.01,en:0.01",
    "max_symbol_share": 0.9,
    "max_digit_share": 0.9,
    "max_repeated_line_share": 0.9,
    "max_repeated_ngram_share": 0.9,
}


def off_except(**thresholds: Any) -> CleaningRules:
    return CleaningRules(cleaning="none", **thresholds)


def clean(text: str, **thresholds: Any) -> Cleaned:
    return Cleaner(off_except(**thresholds)).clean_text(text)


def talk(*turns: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]
    return {"messages": messages, **more}


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    answers = {
        side: {"role": "assistant", "content": text} for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return talk(question, **answers)


# ---- the table ----


def test_every_rule_has_a_flag_with_help_and_every_flag_a_rule() -> None:
    flags = {each.name: each for each in dataclasses.fields(CleaningRules)}
    assert list(dict.fromkeys(rule.field for rule in RULES.values())) == list(flags)[1:-1]
    assert set(flags) - {rule.field for rule in RULES.values()} == {"cleaning", "keep_duplicates"}
    assert all(each.metadata["help"] for each in flags.values())
    assert all(bool(rule.rewrite) != bool(rule.judge) for rule in RULES.values())
    assert set(ALL_ON) == {rule.field for rule in RULES.values()}
    assert all(set(preset) <= set(ALL_ON) for preset in PRESETS.values())
    assert get_args(get_type_hints(CleaningRules)["cleaning"]) == tuple(PRESETS)


def test_flags_overrule_the_preset_and_zero_turns_off() -> None:
    assert CleaningRules().thresholds() == {"strip": True, "min_chars": 1}
    rules = CleaningRules(cleaning="minimind", min_question_chars=3, max_answer_chars=0, min_language_share="none")
    assert rules.thresholds() == {
        "strip": True,
        "min_question_chars": 3,
        "max_question_chars": 512,
        "min_answer_chars": 5,
    }
    assert CleaningRules(cleaning="web", remove_html=False, unicode_form="none").thresholds().keys() == (
        PRESETS["web"].keys() - {"remove_html", "unicode_form"}
    )


def test_as_dict_tells_what_is_on_however_it_was_asked_for() -> None:
    by_flag = off_except(strip=True, min_chars=1).as_dict()
    assert by_flag == CleaningRules().as_dict()
    assert by_flag != CleaningRules(max_chars=9).as_dict()
    assert by_flag != CleaningRules(keep_duplicates=True).as_dict()
    assert json.loads(json.dumps(by_flag)) == by_flag


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ({"cleaning": "best"}, "--cleaning best.*none, default, minimind"),
        ({"max_digit_share": 1.5}, "--max_digit_share 1.5.*between 0 and 1"),
        ({"min_chars": -1}, "--min_chars -1"),
        ({"min_chars": 10, "max_chars": 5}, "--max_chars 5.*--min_chars"),
        ({"unicode_form": "nfd"}, "--unicode_form nfd"),
        ({"mask_personal_data": "mail,fax"}, "'fax'"),
        ({"min_language_share": "zh"}, "zh:0.5"),
        ({"min_language_share": "zh:2"}, "zh:0.5"),
        ({"min_language_share": "klingon:0.5"}, "'klingon'.*zh"),
    ],
)
def test_senseless_thresholds_are_one_line(thresholds: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CleaningRules(**thresholds).as_dict()


# ---- each rule that drops ----

LONG_LINE = "The same line, again and again.\n"


@pytest.mark.parametrize(
    ("rule", "thresholds", "good", "bad", "detail"),
    [
        ("empty", {}, "a", " \n\u3000", "no character"),
        ("too few characters", {"min_chars": 3}, "abc", "好好", "2 characters, at least 3"),
        ("too many characters", {"max_chars": 3}, "好好好", "abcd", "4 characters, at most 3"),
        (
            "other language",
            {"min_language_share": "zh:0.5"},
            "中文ab",
            "中abc",
            "25% of the letters are zh, at least 50%",
        ),
        (
            "other language",
            {"min_language_share": "zh:0.5,en:0.9"},
            "plain English",
            "Это русский",
            "0% .* and 0% .* en",
        ),
        (
            "too many symbols",
            {"max_symbol_share": 0.2},
            "好，好。“好”！",
            "ab {} <>",
            "66.67% of .* symbols, at most 20",
        ),
        ("too many digits", {"max_digit_share": 0.5}, "12ab", "12 34 5 a", "83.33% of .* digits, at most 50"),
        ("repeated lines", {"max_repeated_line_share": 0.3}, "a\nb\nc\na", LONG_LINE * 2, "50.00% .*, at most 30"),
        ("repeated n-grams", {"max_repeated_ngram_share": 0.1}, "天地玄黄宇宙洪荒日月盈昃", "好" * 100, "at most 10"),
    ],
)
def test_a_rule_drops_and_says_what_it_measured(
    rule: str, thresholds: dict[str, Any], good: str, bad: str, detail: str
) -> None:
    assert clean(good, **thresholds).failed is None
    cleaned = clean(bad, **thresholds)
    assert cleaned.failed == rule
    assert re.search(detail, cleaned.detail)
    assert rule == "empty" or clean(bad).failed is None  # off, it drops nothing


def test_what_has_no_letters_is_of_no_language() -> None:
    assert clean("1 + 1 = 2", min_language_share="zh:0.9").failed is None


def test_default_changes_nothing_but_outer_space() -> None:
    text = "\u3000\u3000第一，<b>x&amp;y</b>…  \n\n\n\n  ① ﬁn\u200b 13812345678 a@b.com\t\n"
    cleaned = Cleaner(CleaningRules()).clean_text(text)
    assert cleaned == Cleaned(text.strip(), changed=("strip",))


CODE = "\n    def f(self):\n        return 1\n\n"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (CleaningRules(cleaning="none"), CODE),
        (CleaningRules(strip=False), CODE),
        (CleaningRules(), CODE.strip("\n")),
        (CleaningRules(cleaning="minimind_pretrain"), CODE.strip("\n")),
        (CleaningRules(cleaning="web", min_chars=1), CODE.strip("\n")),
    ],
)
def test_presets_keep_the_indentation_of_code(rules: CleaningRules, expected: str) -> None:
    assert Cleaner(rules).clean_text(CODE).text == expected


# ---- idempotence, speed ----

# Pieces that rewriting rules make something of, so that random texts nest and join them.
PIECES = """
<b> </b> <p> <scr ipt> <script> </script> <!-- --> & &amp; amp; lt; &lt; &gt; &#60; &#x200b; &#769; &am p; &nbsp; ` ```
\u200b \u200d \u200c \ufeff \u0301 \u0323 e é ﬁ ＜ ＞ ＆ Ａ ０ ， 。 好 首页 | 分享到： 微信 Home About ½ ﾞ — -
👩 1 13812345678 @ a@b.co . com 4111111111111111 11010519491231002X 8.8.8.123 + : 2001:db8::
"""
SPACES = (" ", "\n", "\r", "\t", "    ", "\n\n\n\n")
texts = st.lists(
    st.sampled_from(
        [*PIECES.split(), " ", "\n", "\r", "\t", "    ", "\n\n\n\n", "we use cookies", "the same line again\n"]
    )
    | st.text(max_size=3),
    max_size=25,
).map("".join)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.rewrite])
def test_each_rewriting_rule_is_idempotent(name: str) -> None:
    rule = RULES[name]
    cleaner = Cleaner(off_except(**{rule.field: rule.kind or ALL_ON[rule.field]}))

    @given(texts)
    def check(text: str) -> None:
        once = cleaner.clean_text(text)
        if once.failed != UNSETTLED:
            again = cleaner.clean_text(once.text)
            assert (again.text, again.changed, again.failed) == (once.text, (), once.failed)

    check()


@given(texts)
@example("<<b>b>x</b>")
@example("&amp;amp;lt;b&amp;gt;好&am<b>p;</b>lt;")
@example("e&#8203;&#769;")
@example("＜ｂ＞" * 3)
@example("&#\u200b49;3&#56;12345678")
@example("a" + "\u0301\u0323" * 50)
def test_all_rewriting_rules_together_are_idempotent(text: str) -> None:
    rewriting = {rule.field: ALL_ON[rule.field] for rule in RULES.values() if rule.rewrite}
    cleaner = Cleaner(off_except(**rewriting))
    once = cleaner.clean_text(text)
    if once.failed != UNSETTLED:
        again = cleaner.clean_text(once.text)
        assert again.text == once.text
        assert again.changed == ()


def test_nonsense_that_never_settles_is_dropped_by_name() -> None:
    cleaned = clean("<" * 30 + "<b>" + "b>" * 30, remove_html=True)
    assert cleaned.failed == UNSETTLED and "4 rounds" in cleaned.detail


BOMBS = """
a 1 12- 138 < > <b <b> <script> <!-- </ & &amp; &# &#0 ` ``` @ a@ a. a@a. a@a- 0 4 4- +1 + ( (0 010- 1. 1.1 : a: ::
\u0301 \u0323\u0301 ﾞ\u0334 e\u0301 \u200d \u200b a\u200d 👩\u200d 好 首页 | 本站使用 未经 关注 点击 － １ ～~~ icp ©
"""
BOMBS_WITH_SPACE = (
    " ",
    "\t",
    "\n",
    "\u3000",
    "<b ",
    "```\n",
    "~~~\n",
    "4 ",
    "+1 ",
    "首页 ",
    "home ",
    "x\r",
    "\r\n",
    "a\n",
    "    a\n",
)


def seconds(function: Callable[[], Any]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.part not in ("question", "answer")])
def test_no_text_makes_a_rule_slow(name: str) -> None:
    """Ten times the text takes about ten times as long, whatever it is made of."""
    rule = RULES[name]
    on = {rule.field: rule.kind or ALL_ON[rule.field]}
    cleaner = Cleaner(off_except(**on))
    cleaner.clean_text("warm é up")
    for bomb in [*BOMBS.split(), *BOMBS_WITH_SPACE, "we use cookies ", "© ", "var a = a ||"]:
        small, large = bomb * (100_000 // len(bomb)), bomb * (1_000_000 // len(bomb))
        least = min(seconds(partial(cleaner.clean_text, small)) for _ in range(2))
        taken: list[float] = []
        # Other work on the machine may slow one of them down.
        while not taken or (len(taken) < 3 and taken[-1] >= 30 * max(least, 0.003)):
            taken.append(seconds(partial(cleaner.clean_text, large)))
        assert min(taken) < 30 * max(least, 0.003), f"{bomb!r}: {least:.3f} s, then {taken} s for ten times as much"


# ---- conversations ----


def test_question_and_answer_lengths() -> None:
    rules = off_except(min_question_chars=3, max_question_chars=5, min_answer_chars=2, max_answer_chars=4)
    cleaner = Cleaner(rules)

    def verdict(*turns: str) -> tuple[str | None, str]:
        cleaned = cleaner.clean_conversation(talk(*turns))
        return cleaned.failed, cleaned.detail

    assert verdict("abc", "ab", "abcde", "abcd") == (None, "")
    assert verdict("ab", "ab") == ("question too short", "turn 1: 2 characters, at least 3")
    assert verdict("abc", "ab", "abcdef", "ab") == ("question too long", "turn 3: 6 characters, at most 5")
    assert verdict("abc", "a") == ("answer too short", "turn 2: 1 characters, at least 2")
    assert verdict("abc", "abcde") == ("answer too long", "turn 2: 5 characters, at most 4")


def test_minimind_preset() -> None:
    cleaner = Cleaner(CleaningRules(cleaning="minimind"))
    question, answer = "请介绍一下你的家乡好吗", "好的，它在海边。"
    assert cleaner.clean_conversation(talk(question, answer)).failed is None
    assert cleaner.clean_conversation(talk("你的家乡在哪里？", answer)).failed == "question too short"
    assert cleaner.clean_conversation(talk(question, "海边")).failed == "answer too short"
    assert cleaner.clean_conversation(talk(question * 50, answer)).failed == "question too long"
    assert cleaner.clean_conversation(talk(question, answer * 80)).failed == "answer too long"
    english = cleaner.clean_conversation(talk(question, "It lies at the sea."))
    assert (english.failed, english.detail) == ("other language", "answers: 0% of the letters are zh, at least 50%")
    pretraining = Cleaner(CleaningRules(cleaning="minimind_pretrain"))
    assert [pretraining.clean_text("好" * n).failed for n in (512, 513)] == [None, "too many characters"]


def test_messages_are_mended_and_the_original_stays() -> None:
    call = {"type": "function", "function": {"name": "send", "arguments": {"to": ["a@b.com"], "html": "<b>&lt;</b>"}}}
    given = talk("<p>写信给a@b.com</p>", "")
    given["messages"][1] |= {"tool_calls": [call], "reasoning_content": "an a@b.com"}
    given["messages"].append({"role": "tool", "content": ""})
    before = json.dumps(given)
    cleaned = Cleaner(off_except(remove_html=True, mask_personal_data="mail", strip=True)).clean_conversation(given)
    assert cleaned.failed is None and cleaned.changed == ("html", "mail addresses", "strip")
    assert cleaned.conversation
    question, answer, _ = cleaned.conversation["messages"]
    assert question["content"] == "写信给[mail address]"
    # Masked like what was said, so that it still fits; but data is no prose, and keeps its tags.
    arguments = {"to": ["[mail address]"], "html": "<b>&lt;</b>"}
    assert answer["tool_calls"][0]["function"]["arguments"] == arguments
    assert answer["reasoning_content"] == "an [mail address]"
    assert json.dumps(given) == before


def test_rules_look_at_all_that_their_name_says() -> None:
    call = {"function": {"name": "f", "arguments": {"x": "1234567890" * 3}}}
    given = talk("问题是什么？", "这就是答案。")
    given["messages"][1] |= {"reasoning_content": LONG_LINE * 3, "tool_calls": [call]}

    def failed(**thresholds: Any) -> tuple[str | None, str]:
        cleaned = Cleaner(off_except(**thresholds)).clean_conversation(given)
        assert all(part in cleaned.text for part in ("问题是什么？", "这就是答案。", LONG_LINE, "1234567890"))
        return cleaned.failed, cleaned.detail.split(":")[0]

    # The whole of it …
    assert failed(max_chars=40)[0] == "too many characters"
    assert failed(max_digit_share=0.1)[0] == "too many digits"
    # … everything written in prose …
    assert failed(max_repeated_line_share=0.2) == ("repeated lines", "turn 2")
    assert failed(max_repeated_ngram_share=0.2) == ("repeated n-grams", "turn 2")
    assert failed(min_language_share="zh:0.5") == ("other language", "answers")
    # … and the answer alone.
    assert failed(min_answer_chars=6, max_answer_chars=6)[0] is None
    del given["messages"][1]["reasoning_content"]
    assert Cleaner(off_except(min_language_share="zh:0.9")).clean_conversation(given).failed is None


def test_a_message_of_which_nothing_is_left_drops_the_conversation() -> None:
    cleaner = Cleaner(off_except(remove_html=True))
    cleaned = cleaner.clean_conversation(talk("hello", "<br><br>"))
    assert (cleaned.failed, cleaned.detail) == ("empty", "nothing is left of a turn of assistant")


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.judge])
def test_a_pair_is_dropped_whichever_answer_fails(name: str) -> None:
    rule = RULES[name]
    threshold, good, bad = {
        "min_chars": (8, "a good answer", "no"),
        "max_chars": (20, "good", "a very long answer indeed"),
        "min_answer_chars": (3, "good", "no"),
        "max_answer_chars": (5, "good", "too long"),
        "min_question_chars": (3, "good", "bad"),
        "max_question_chars": (9, "good", "bad"),
        "min_language_share": ("en:0.5", "good", "不好"),
        "max_symbol_share": (0.5, "good", "#{}[]<>=+~^*#{}[]"),
        "max_digit_share": (0.5, "good", "1234567890123456789"),
        "max_repeated_line_share": (0.2, "good", LONG_LINE * 3),
        "max_repeated_ngram_share": (0.2, "good", "好" * 50),
    }[rule.field]
    cleaner = Cleaner(off_except(**{rule.field: threshold}))
    question = "a question that is far too long" if "max_question" in rule.field else "q"
    if rule.part != "question":
        assert cleaner.clean_conversation(pair(question, good, good + "!")).failed is None
    results = [cleaner.clean_conversation(pair(question, *answers)) for answers in ((good, bad), (bad, good))]
    assert [result.failed for result in results] == [name, name]
    if rule.part != "question":
        assert [result.detail.split(":")[0].split(",")[0] for result in results] == ["rejected", "chosen"]


@given(texts.filter(str.strip), texts.filter(str.strip))
def test_both_answers_of_a_pair_are_mended_alike(one: str, other: str) -> None:
    rules = {rule.field: ALL_ON[rule.field] for rule in RULES.values() if rule.rewrite}
    cleaner = Cleaner(off_except(**rules))
    results = [cleaner.clean_conversation(pair("q", *answers)) for answers in ((one, other), (other, one))]
    there, back = results
    assert there.changed == back.changed
    assert there.conversation and back.conversation
    assert there.conversation["chosen"] == back.conversation["rejected"]
    assert there.conversation["rejected"] == back.conversation["chosen"]
    assert {there.failed, back.failed} in ({None}, {there.failed})


def test_answers_that_only_differed_in_dirt() -> None:
    cleaned = Cleaner(off_except(remove_invisible=True)).clean_conversation(pair("q", "yes", "y\u200bes"))
    assert cleaned.failed == SAME_ANSWERS


# ---- the rest ----


def test_a_cleaner_travels_to_a_worker() -> None:
    cleaner = Cleaner(CleaningRules(cleaning="web", mask_personal_data="all"))
    text = "<p>mail a@b.com</p>" + "ordinary words of a page, " * 2
    assert pickle.loads(pickle.dumps(cleaner)).clean_text(text) == cleaner.clean_text(text)


def test_the_web_preset_leaves_real_pages_and_poems_alone(real_data: Any) -> None:
    cleaner = Cleaner(CleaningRules(cleaning="web", min_chars=1))
    with open(real_data / "text" / "c4_demo.jsonl", encoding="utf-8") as file:
        pages = [json.loads(line)["text"] for line in file]
    with open(real_data / "text" / "poems.jsonl", encoding="utf-8") as file:
        poems = [json.loads(line)["text"] for line in islice(file, 2000)]
    kept = [cleaner.clean_text(text) for text in pages]
    assert sum(cleaned.failed is None for cleaned in kept) >= 0.95 * len(pages)
    assert sum(len(cleaned.text) for cleaned in kept) >= 0.99 * sum(map(len, pages))
    assert sum(cleaner.clean_text(poem).text == poem for poem in poems) >= 0.999 * len(poems)

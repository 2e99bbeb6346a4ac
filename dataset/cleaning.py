"""What is mended in a document, and what is left out of a set although it can be read: small named rules.

`RULES` is the whole table, `PRESETS` says which are on. A rule either rewrites a text, or judges it: then the whole
document is dropped, with what was measured. A conversation is mended message by message. A preference pair is judged
as two conversations, and one failure drops the pair: neither answer is ever treated otherwise than the other.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dataset.conversations import SIDES, Conversation, Message, all_messages, contents
from dataset.messages import prose_of, texts_of
from dataset.rules import measuring
from dataset.rules.html_remains import strip_html
from dataset.rules.personal_data import MASKS
from dataset.rules.rewriting import (
    drop_boilerplate,
    half_width,
    limit_line_repeats,
    normalise_unicode,
    remove_invisible,
    strip,
    tidy_space,
)
from model.errors import UserError

DUPLICATE = "duplicate"
EMPTY = "empty"
UNSETTLED = "rewriting does not settle"
SAME_ANSWERS = "chosen equals rejected after cleaning"
VERSION = 2  # raise it when a rule or a list changes: a set cleaned otherwise must not pass for the same
_MAX_ROUNDS = 4


def _rule(help: str) -> Any:
    return field(default=None, metadata={"help": help.replace("%", "%%")})


@dataclass(frozen=True)
class CleaningRules:
    """One field (and flag) a rule: its threshold. Left out (None), the preset decides; 0, false or none: off."""

    _argument_group_name = "cleaning"

    cleaning: Literal["none", "default", "minimind", "minimind_pretrain", "web"] = field(
        default="default", metadata={"help": "preset of the rules below; a rule's own flag overrules it"}
    )
    remove_html: bool | None = _rule("take away tags, scripts and comments, resolve entities; not in ``` code")
    remove_invisible: bool | None = _rule("take away control characters and zero-width marks; line ends become \\n")
    unicode_form: Literal["none", "nfc", "nfkc"] | None = _rule("Unicode form; nfkc turns ， into , and ② into 2 too")
    half_width: bool | None = _rule("full-width letters and digits become plain ones, Chinese punctuation stays")
    remove_boilerplate: bool | None = _rule("take away lines of navigation, share buttons, cookie notices")
    max_line_repeats: int | None = _rule("of equal lines in a document keep the first so many")
    tidy_space: bool | None = _rule("no space at line ends, at most two empty lines in a row")
    mask_personal_data: str | None = _rule("all, or some of mail,identity,card,phone,ip: replaced by placeholders")
    strip: bool | None = _rule("take away the white space around each text, but not code's indentation")
    min_chars: int | None = _rule("drop documents and conversations with fewer characters")
    max_chars: int | None = _rule("drop documents and conversations with more characters")
    min_question_chars: int | None = _rule("drop conversations in which a user's turn has fewer characters")
    max_question_chars: int | None = _rule("drop conversations in which a user's turn has more characters")
    min_answer_chars: int | None = _rule("drop conversations in which an answer has fewer characters")
    max_answer_chars: int | None = _rule("drop conversations in which an answer has more characters")
    min_language_share: str | None = _rule("least share of the letters: zh:0.5, or zh:0.5,en:0.9 (one must hold)")
    max_symbol_share: float | None = _rule("drop what has a larger share of symbols (marks of prose are none)")
    max_digit_share: float | None = _rule("drop what has a larger share of digits")
    max_repeated_line_share: float | None = _rule("drop what repeats a larger share of itself in whole lines")
    max_repeated_ngram_share: float | None = _rule("drop what repeats a larger share of itself in 10-grams")
    keep_duplicates: bool = field(default=False, metadata={"help": "keep what is exactly equal to an earlier document"})

    def thresholds(self) -> dict[str, Any]:
        """The rules that are on: field → threshold. UserError for one that makes no sense."""
        if self.cleaning not in PRESETS:
            raise UserError(f"--cleaning {self.cleaning}: expected one of {', '.join(PRESETS)}")
        names = dict.fromkeys(rule.field for rule in RULES.values())
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        found = {**PRESETS[self.cleaning], **given}
        on = {name: found[name] for name in names if found.get(name, 0) not in (0, "", "0", "none")}
        _check(on)
        return on

    def as_dict(self) -> dict[str, Any]:
        """For meta.json and the fingerprint of a build: what is on, however it was asked for."""
        return {**self.thresholds(), "keep_duplicates": self.keep_duplicates, "version": VERSION}


@dataclass(frozen=True)
class Rule:
    """One line of the table: the field with its threshold, and the function that works with it."""

    field: str
    rewrite: Callable[[str, Any], str] | None = None
    judge: Callable[[str, Any], str] | None = None  # "", or what was measured and the threshold
    part: str = "whole"  # judged of a conversation: the whole, each message, speaker, question or answer
    kind: str = ""  # of personal data


# The table, in the order of work: name, flag, what it does. A name of the second half is the reason that reports and
# rejects.jsonl give. Besides these, "empty" always drops: there is nothing to train.
RULES: dict[str, Rule] = {
    "html": Rule("remove_html", lambda text, _: strip_html(text)),
    "invisible characters": Rule("remove_invisible", lambda text, _: remove_invisible(text)),
    "unicode form": Rule("unicode_form", normalise_unicode),
    "half width": Rule("half_width", lambda text, _: half_width(text)),
    "boilerplate lines": Rule("remove_boilerplate", lambda text, _: drop_boilerplate(text)),
    "line repeats": Rule("max_line_repeats", limit_line_repeats),
    "tidy space": Rule("tidy_space", lambda text, _: tidy_space(text)),
    "mail addresses": Rule("mask_personal_data", lambda text, _: MASKS["mail"](text), kind="mail"),
    "identity numbers": Rule("mask_personal_data", lambda text, _: MASKS["identity"](text), kind="identity"),
    "card numbers": Rule("mask_personal_data", lambda text, _: MASKS["card"](text), kind="card"),
    "phone numbers": Rule("mask_personal_data", lambda text, _: MASKS["phone"](text), kind="phone"),
    "ip addresses": Rule("mask_personal_data", lambda text, _: MASKS["ip"](text), kind="ip"),
    "strip": Rule("strip", lambda text, _: strip(text)),
    "too few characters": Rule("min_chars", judge=measuring.too_few_characters),
    "too many characters": Rule("max_chars", judge=measuring.too_many_characters),
    "question too short": Rule("min_question_chars", judge=measuring.too_few_characters, part="question"),
    "question too long": Rule("max_question_chars", judge=measuring.too_many_characters, part="question"),
    "answer too short": Rule("min_answer_chars", judge=measuring.too_few_characters, part="answer"),
    "answer too long": Rule("max_answer_chars", judge=measuring.too_many_characters, part="answer"),
    "other language": Rule("min_language_share", judge=measuring.outside_languages, part="speaker"),
    "too many symbols": Rule("max_symbol_share", judge=measuring.too_many_symbols),
    "too many digits": Rule("max_digit_share", judge=measuring.too_many_digits),
    "repeated lines": Rule("max_repeated_line_share", judge=measuring.too_many_repeated_lines, part="message"),
    "repeated n-grams": Rule("max_repeated_ngram_share", judge=measuring.too_many_repeated_ngrams, part="message"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # Changes nothing that anybody would miss: outer white space goes, but not the indentation of code.
    "default": {"strip": True, "min_chars": 1},
    # MiniMind's data_process.py: short questions and answers, each at least half Chinese …
    "minimind": {
        "strip": True,
        "min_question_chars": 10,
        "max_question_chars": 512,
        "min_answer_chars": 5,
        "max_answer_chars": 512,
        "min_language_share": "zh:0.5",
    },
    # … and short documents for pretraining.
    "minimind_pretrain": {"strip": True, "max_chars": 512},
    # Crawled pages. The share of repeated lines is Gopher's (Rae et al. 2021, table A1: 0.20); that of 10-grams is a
    # little above its 0.10, because ten Chinese characters are fewer words. Symbols and digits: above all that 300
    # pages of C4 and 30 long articles reach (0.04 and 0.29); tables and program text lie higher.
    "web": {
        "remove_html": True,
        "remove_invisible": True,
        "unicode_form": "nfc",
        "remove_boilerplate": True,
        "max_line_repeats": 5,
        "tidy_space": True,
        "strip": True,
        "min_chars": 50,
        "max_symbol_share": 0.25,
        "max_digit_share": 0.3,
        "max_repeated_line_share": 0.2,
        "max_repeated_ngram_share": 0.15,
    },
}


@dataclass(frozen=True)
class Cleaned:
    """A document after cleaning: mended, or the name of the rule that dropped it and what that rule measured."""

    text: str = ""
    conversation: Conversation | None = None
    failed: str | None = None
    detail: str = ""
    changed: tuple[str, ...] = ()  # names of the rewriting rules that changed something


class Cleaner:
    """Applies rules to documents. Made once a process; it travels to workers as its rules."""

    def __init__(self, rules: CleaningRules) -> None:
        self.rules = rules
        thresholds = rules.thresholds()
        self._rewriting: list[tuple[str, Rule, Any]] = []
        self._judging: list[tuple[str, Rule, Any]] = []
        for name, rule in RULES.items():
            threshold = thresholds.get(rule.field)
            if threshold is None or (rule.kind and rule.kind not in _kinds_of_data(threshold)):
                continue
            if rule.field == "min_language_share":
                threshold = measuring.parse_language_shares(threshold)
            (self._rewriting if rule.rewrite else self._judging).append((name, rule, threshold))
        self._masking = [entry for entry in self._rewriting if entry[1].kind]

    def __reduce__(self) -> tuple[Any, ...]:
        return Cleaner, (self.rules,)

    def clean_text(self, text: str) -> Cleaned:
        """Mend and judge a document of pretraining text."""
        text, changed, settled = _rewritten(text, self._rewriting)
        cleaned = Cleaned(text, changed=changed)
        if not settled:
            return replace(cleaned, failed=UNSETTLED, detail=f"still changing after {_MAX_ROUNDS} rounds")
        if not text.strip():
            return replace(cleaned, failed=EMPTY, detail="no character is left" if changed else "no character")
        for name, rule, threshold in self._judging:
            if rule.judge is not None and rule.part not in ("question", "answer"):
                detail = rule.judge(text, threshold)
                if detail:
                    return replace(cleaned, failed=name, detail=detail)
        return cleaned

    def clean_conversation(self, conversation: Conversation) -> Cleaned:
        """Mend every message and judge the whole, in the form of `dataset/conversations.py`, which stays as it was.

        `text` of the result is all that is said, line by line: what near-duplicates are found by.
        """
        mended: Conversation = dict(conversation)
        changed: dict[str, None] = {}
        failure: tuple[str, str] | None = None
        mended["messages"] = [dict(message) for message in conversation["messages"]]
        for side in SIDES:
            if side in mended:
                mended[side] = dict(mended[side])
        for message in all_messages(mended):
            failure = self._mend(message, changed) or failure
        failure = failure or self._judge(mended)
        failed, detail = failure or (None, "")
        return Cleaned(contents(mended), mended, failed, detail, tuple(name for name in RULES if name in changed))

    def _mend(self, message: dict[str, Any], changed: dict[str, None]) -> tuple[str, str] | None:
        """Rewrite a message in place; a failure where that leaves nothing of it, or does not come to an end."""
        for key in ("content", "reasoning_content"):
            text = message.get(key)
            if not text:
                continue
            message[key], names, settled = _rewritten(text, self._rewriting)
            changed.update(dict.fromkeys(names))
            if not settled:
                return UNSETTLED, f"{message['role']}: still changing after {_MAX_ROUNDS} rounds"
            if key == "content" and not message[key].strip() and not message.get("tool_calls"):
                return EMPTY, f"nothing is left of a turn of {message['role']}"
        if self._masking and message.get("tool_calls"):
            # Arguments repeat what the user said. They are data, so nothing but the masks may touch them.
            message["tool_calls"] = self._masked(message["tool_calls"], changed)
        return None

    def _masked(self, value: Any, changed: dict[str, None]) -> Any:
        if isinstance(value, str):
            value, names, _ = _rewritten(value, self._masking)
            changed.update(dict.fromkeys(names))
            return value
        if isinstance(value, list):
            return [self._masked(item, changed) for item in value]
        if isinstance(value, dict):
            return {key: self._masked(item, changed) for key, item in value.items()}
        return value

    def _judge(self, conversation: Conversation) -> tuple[str, str] | None:
        """The first rule that a conversation fails; of a pair, that either of its two conversations fails."""
        sides = [side for side in SIDES if side in conversation]
        if sides and conversation["chosen"] == conversation["rejected"]:
            return SAME_ANSWERS, "both say the same"
        for name, rule, threshold in self._judging:
            assert rule.judge is not None
            for side in sides or [""]:
                messages = [*conversation["messages"], *([conversation[side]] if side else [])]
                for part, text in _parts(messages, rule.part):
                    detail = rule.judge(text, threshold)
                    if detail:
                        where = ", ".join(word for word in (side, part) if word)
                        return name, f"{where}: {detail}" if where else detail
        return None


def digest(text: str) -> bytes:
    """16 bytes that tell documents apart, for duplicates and for the validation split."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _rewritten(text: str, rules: list[tuple[str, Rule, Any]]) -> tuple[str, tuple[str, ...], bool]:
    """A text on which no rule changes anything any more; the rules that changed it; whether that point was reached.

    What one rule does may give another something to do (an entity turns into a tag, a tag's end frees a space), so
    they go round until all of them in a row leave the text alone. Cleaning a second time therefore changes nothing.
    Four rounds suffice for all but nonsense made to keep them busy.
    """
    changed: dict[str, None] = {}
    left_alone = 0
    for _ in range(_MAX_ROUNDS):
        for name, rule, threshold in rules:
            assert rule.rewrite is not None
            new = rule.rewrite(text, threshold)
            left_alone += 1
            if new != text:
                text, left_alone = new, 0
                changed[name] = None
            if left_alone >= len(rules):
                return text, tuple(changed), True
    return text, tuple(changed), not rules


def _parts(messages: list[Message], part: str) -> Iterator[tuple[str, str]]:
    """The texts of a conversation that a rule judges, each with what it is called in the rule's detail.

    The whole is all that is said, calls of tools included. Of a language, and good or bad prose, are only contents
    and reasoning: names of functions are neither. A question or an answer is its content, however long the way there.
    """
    if part == "whole":
        yield "", "\n".join(text for message in messages for text in texts_of(message))
    elif part == "speaker":
        for role, name in (("user", "questions"), ("assistant", "answers")):
            said = [text for message in messages if message["role"] == role for text in prose_of(message)]
            yield name, "\n".join(said)
    elif part == "message":
        for number, message in enumerate(messages, start=1):
            for text in prose_of(message):
                yield f"turn {number}", text
    else:
        wanted = {"question": "user", "answer": "assistant"}[part]
        for number, message in enumerate(messages, start=1):
            is_call = message.get("tool_calls") and not message["content"]  # has no words of its own
            if not is_call and message["role"] == wanted:
                yield f"turn {number}", message["content"]


def _kinds_of_data(value: str) -> list[str]:
    """Which personal data a flag names."""
    kinds = [kind.strip() for kind in value.split(",")]
    return list(MASKS) if kinds == ["all"] else kinds


def _check(thresholds: dict[str, Any]) -> None:
    """UserError for a threshold that makes no sense."""
    for name, value in thresholds.items():
        if name.endswith("_share") and isinstance(value, float) and not 0 < value <= 1:
            raise UserError(f"--{name} {value}: expected a share between 0 and 1")
        if isinstance(value, int) and value < 0:
            raise UserError(f"--{name} {value}: expected a number above 0, or 0 for no limit")
        if name.startswith("max_") and value < thresholds.get(name.replace("max_", "min_"), value):
            raise UserError(f"--{name} {value}: below --{name.replace('max_', 'min_')}, so that nothing could be kept")
    form = thresholds.get("unicode_form", "nfc")
    if form not in ("nfc", "nfkc"):
        raise UserError(f"--unicode_form {form}: expected none, nfc or nfkc")
    for kind in _kinds_of_data(thresholds.get("mask_personal_data", "all")):
        if kind not in MASKS:
            raise UserError(f"--mask_personal_data: no kind {kind!r}; expected all, or some of {', '.join(MASKS)}")
    if "min_language_share" in thresholds:
        measuring.parse_language_shares(thresholds["min_language_share"])

"""Cleaning that rewrites: Unicode forms, invisible characters, lines that say nothing, space.

Each function takes a text and gives it back mended, in time proportional to its length whatever it holds. None
touches a line's indentation, and none but `normalise_unicode(text, "nfkc")` touches Chinese punctuation.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

from dataset.rules.boilerplate import boilerplate_lines

# UAX #15 calls text with at most 30 combining marks in a row stream-safe. No language writes longer runs, and
# Python's normalisation takes quadratic time on them: a megabyte of accents would stop the whole build.
_MAX_MARKS = 30
_RARE_PLANES = re.compile("[\U00010000-\U0010ffff]")

# Full-width letters and digits only: ，：！ and the other marks of this block belong to Chinese.
_HALF_WIDTH = {
    code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for code in range(ord(first), ord(last) + 1)
}
_FULL_WIDTH = re.compile("[０-９Ａ-Ｚａ-ｚ]+")

_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# C0 and C1 controls but tab and line end; soft hyphen; zero-width space, word joiner, byte order mark; marks that
# turn the direction of writing; Hangul fillers; remarks between lines; what is no character at all.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff]+"
)
# The two zero-width joiners spell words in Persian and the Indic scripts, and hold emoji together (👩‍💻). Beside
# Latin letters, Chinese, space, or at an end they are dirt.
_JOINERS = re.compile("[\u200c\u200d]+")
_NEEDS_NO_JOINER = re.compile("[\x00-\u024f\u2000-\u206f\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")

_FENCE = re.compile(r" {0,3}(```|~~~)")
_MIN_REPEATED_CHARS = 10  # "}" and "end" may come as often as they like
_MAX_BLANK_LINES = 2
_INDENT = (" ", "\t")


def strip(text: str) -> str:
    """Without the white space around it; but a first line that is indented like the next one stays so (code)."""
    stripped = text.strip()
    rest = stripped.partition("\n")[2]
    if rest:
        lead = text[: len(text) - len(text.lstrip())].rpartition("\n")[2]
        following = next((line for line in rest.split("\n") if line.strip()), "")
        if lead and not lead.strip(" \t") and following.startswith(lead):
            return lead + stripped
    return stripped


def remove_invisible(text: str) -> str:
    """Line ends of all systems as \\n; no control characters, no zero-width marks but joiners that spell something."""
    if _LINE_ENDS.search(text):
        text = _LINE_ENDS.sub("\n", text)
    if _INVISIBLE.search(text):
        text = _INVISIBLE.sub("", text)
    return _JOINERS.sub(_keep_joiner, text) if "\u200c" in text or "\u200d" in text else text


def _keep_joiner(run: re.Match[str]) -> str:
    text = run.string
    around = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
    joins = all(character and not _NEEDS_NO_JOINER.match(character) for character in around)
    return run.group() if joins else ""


def normalise_unicode(text: str, form: str) -> str:
    """`nfc`: one spelling for what looks the same (é is one character). `nfkc` also turns variants into plain
    characters: ﬁ → fi, Ａ → A, x² → x2, ① → 1, but ， → , and … → ... as well, so it is never chosen for you."""
    if text.isascii():
        return text
    mended = unicodedata.normalize("NFKC" if form == "nfkc" else "NFC", _cut_mark_runs(text))
    # Unfolding may have lengthened a run. What is cut off a normal text leaves a normal text.
    return mended if mended == text else _cut_mark_runs(mended)


def _cut_mark_runs(text: str) -> str:
    any_mark, long_run = _marks()
    if not any_mark.search(text) and not _RARE_PLANES.search(text):
        return text
    return long_run.sub(lambda run: run.group()[:_MAX_MARKS], text)


@cache
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Any combining mark of the basic plane, and more marks in a row than any language writes."""
    # What unfolds to a mark is one too: half-width Japanese has two such characters.
    marks = [code for code in range(0x20000) if unicodedata.combining(unicodedata.normalize("NFKD", chr(code))[0])]
    basic = "".join(chr(code) for code in marks if code < 0x10000)
    rare = "".join(chr(code) for code in marks if code >= 0x10000)
    # Two classes: `re` looks a character of the basic plane up in a table, but searches a list for the others.
    return re.compile(f"[{basic}]"), re.compile(f"(?:[{basic}]|[{rare}]){{{_MAX_MARKS + 1},}}")


def half_width(text: str) -> str:
    """Full-width letters and digits as plain ones: ２０２４年ＡＩ → 2024年AI. Chinese punctuation stays."""
    return _FULL_WIDTH.sub(lambda run: run.group().translate(_HALF_WIDTH), text)


def drop_boilerplate(text: str) -> str:
    """Without lines that belong to the web page, not to its text: see `dataset/rules/boilerplate.py`.

    A text of one line stays ("WeChat" may be the answer to a question), and so do indented lines (code in Chinese).
    """
    if "\n" not in text:
        return text
    is_boilerplate = boilerplate_lines(text)
    return _filter_lines(text, lambda line: line[:1] in _INDENT or not is_boilerplate(line))


def limit_line_repeats(text: str, most: int) -> str:
    """The first `most` of equal lines stay. Not counted: short and indented lines, rulers (-----), fenced code."""
    seen: Counter[str] = Counter()

    def stays(line: str) -> bool:
        if len(line) < _MIN_REPEATED_CHARS or line[0] in _INDENT or not any(map(str.isalnum, line)):
            return True
        seen[line] += 1
        return seen[line] <= most

    return _filter_lines(text, stays)


def tidy_space(text: str) -> str:
    """No white space at the end of lines, no more than two empty lines in a row. Fenced code stays as it is."""
    kept: list[str] = []
    num_blank = 0
    for line, is_code in lines_with_code(text):
        if not is_code:
            line = line.rstrip()
        num_blank = 0 if line or is_code else num_blank + 1
        if num_blank <= _MAX_BLANK_LINES:
            kept.append(line)
    return "\n".join(kept)


def lines_with_code(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a text, and whether each belongs to code between fences (``` or ~~~; an open one: to the end)."""
    if "```" not in text and "~~~" not in text:
        for line in text.split("\n"):
            yield line, False
        return
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        yield line, bool(fence or found)
        if found and not fence:
            fence = found.group(1)
        elif found and found.group(1) == fence:
            fence = ""


def outside_code(text: str, rewrite: Callable[[str], str]) -> str:
    """`rewrite` what stands outside of fenced code, each stretch as a whole."""
    if "```" not in text and "~~~" not in text:
        return rewrite(text)
    stretches: list[str] = []
    prose: list[str] = []
    for line, is_code in lines_with_code(text):
        if not is_code:
            prose.append(line)
            continue
        if prose:
            stretches.append(rewrite("\n".join(prose)))
            prose = []
        stretches.append(line)
    if prose:
        stretches.append(rewrite("\n".join(prose)))
    return "\n".join(stretches)


def _filter_lines(text: str, stays: Callable[[str], bool]) -> str:
    kept = [line for line, is_code in lines_with_code(text) if is_code or stays(line)]
    return "\n".join(kept)

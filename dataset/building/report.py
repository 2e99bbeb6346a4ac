"""What a build counts, and the report that a person reads: `report.md`, and the same in meta.json."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dataset.reading.formats import Reject
from dataset.rules.characters import FIRST_LETTER, LANGUAGES, NUM_KINDS

_SHOWN_PER_REASON = 3
_NUM_SAMPLES = 5
SAMPLE_TOKENS = 100  # of a document that is shown as a sample
_SAMPLE_CHARS = 200
# One count a script (dataset/rules/characters.py), named after the language that is written in it.
_LANGUAGE_OF = {kind - FIRST_LETTER: name for name, kind in LANGUAGES.items()}
NUM_SCRIPTS = NUM_KINDS - FIRST_LETTER
# When more of a set than this is longer than a row, the report says so first, with the length that keeps the rest.
_MUCH_TOO_LONG = 0.05
_SHOWN_FILES = 3
_HALF_CHARACTER = "\ufffd"  # what a tokenizer makes of some, but not all bytes of a character


@dataclass
class LeftOut:
    """Rows left out, by reason and source (its number), with the first few of each reason."""

    rows: Counter[tuple[str, int]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, int]] = field(default_factory=Counter)
    first: dict[str, list[Reject]] = field(default_factory=dict)

    def add(self, reject: Reject, source: int = 0, num_tokens: int = 0) -> None:
        """Count one row; `num_tokens` is what it would have given, where that is known."""
        self.rows[reject.reason, source] += 1
        self.tokens[reject.reason, source] += num_tokens
        self._show(reject)

    def _show(self, reject: Reject) -> None:
        shown = self.first.setdefault(reject.reason, [])
        if len(shown) < _SHOWN_PER_REASON:
            shown.append(reject)

    def merge(self, other: "LeftOut", renumber: Sequence[int]) -> None:
        """Add the counts of another, whose source i is our source `renumber[i]`."""
        for ours, theirs in ((self.rows, other.rows), (self.tokens, other.tokens)):
            for (reason, source), count in theirs.items():
                ours[reason, renumber[source]] += count
        for reject in (reject for group in other.first.values() for reject in group):
            self._show(reject)

    @property
    def total(self) -> int:
        return self.rows.total()

    def by_reason(self) -> Counter[str]:
        return self._summed(self.rows)

    def tokens_by_reason(self) -> Counter[str]:
        return self._summed(self.tokens)

    @staticmethod
    def _summed(counts: Counter[tuple[str, int]]) -> Counter[str]:
        summed: Counter[str] = Counter()
        for (reason, _), count in counts.items():
            summed[reason] += count
        return summed

    def of_source(self, source: int) -> tuple[int, int]:
        """Rows and tokens left out of one source."""
        rows = sum(count for (_, number), count in self.rows.items() if number == source)
        return rows, sum(count for (_, number), count in self.tokens.items() if number == source)

    def as_lists(self) -> dict[str, Any]:
        """For a shard: everything, in values that JSON has."""
        return {
            "rows": [[*key, count] for key, count in self.rows.items()],
            "tokens": [[*key, count] for key, count in self.tokens.items()],
            "first": [asdict(reject) for group in self.first.values() for reject in group],
        }

    @classmethod
    def from_lists(cls, lists: dict[str, Any]) -> "LeftOut":
        left_out = cls()
        for name in ("rows", "tokens"):
            for reason, source, count in lists[name]:
                getattr(left_out, name)[reason, source] = count
        for fields in lists["first"]:
            left_out._show(Reject(**fields))
        return left_out


@dataclass
class ReadCounts:
    """What was read, and what of it became no document."""

    rows_in: Counter[int] = field(default_factory=Counter)  # by source
    rejected: LeftOut = field(default_factory=LeftOut)  # rows that could not be read or converted
    dropped: LeftOut = field(default_factory=LeftOut)  # good rows that a rule left out
    rewritten: Counter[str] = field(default_factory=Counter)  # documents, by the rule that changed them
    num_straddling: int = 0  # tokens that begin before an answer and end in it
    too_long: Counter[int] = field(default_factory=Counter)  # longer than a row: by the max_seq_len that holds them

    def add_too_long(self, max_seq_len: int) -> None:
        """Count a conversation that needs this max_seq_len, under the next power of two."""
        self.too_long[1 << (max_seq_len - 1).bit_length()] += 1

    def merge(self, other: "ReadCounts", renumber: Sequence[int]) -> None:
        """Add the counts of another, whose source i is our source `renumber[i]`."""
        for source, count in other.rows_in.items():
            self.rows_in[renumber[source]] += count
        self.rejected.merge(other.rejected, renumber)
        self.dropped.merge(other.dropped, renumber)
        self.rewritten.update(other.rewritten)
        self.num_straddling += other.num_straddling
        self.too_long.update(other.too_long)

    @property
    def num_rows_in(self) -> int:
        return self.rows_in.total()

    def as_lists(self) -> dict[str, Any]:
        """For a shard: everything, in values that JSON has."""
        return {
            "rows_in": list(self.rows_in.items()),
            "rejected": self.rejected.as_lists(),
            "dropped": self.dropped.as_lists(),
            "rewritten": dict(self.rewritten),
            "num_straddling": self.num_straddling,
            "too_long": list(self.too_long.items()),
        }

    @classmethod
    def from_lists(cls, lists: dict[str, Any]) -> "ReadCounts":
        return cls(
            Counter(dict(lists["rows_in"])),
            LeftOut.from_lists(lists["rejected"]),
            LeftOut.from_lists(lists["dropped"]),
            Counter(lists["rewritten"]),
            lists["num_straddling"],
            Counter(dict(lists["too_long"])),
        )


class SetCounts:
    """Counts of the documents that went into one set, and a fair sample of them."""

    def __init__(self) -> None:
        self.documents: Counter[int] = Counter()  # by source
        self.tokens: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()  # n: documents of 2**(n-1) .. 2**n - 1 tokens
        self.letters = np.zeros(NUM_SCRIPTS, np.int64)
        self.longest = 0
        self._offered = 0
        # A heap, the sample to be replaced next on top: -key, when offered, source, length, first tokens.
        self._samples: list[tuple[int, int, int, int, np.ndarray]] = []

    def add(self, sources: np.ndarray, num_tokens: np.ndarray, letters: np.ndarray) -> None:
        """Count documents: source [n], tokens [n] and letters by script [n, NUM_SCRIPTS] of each."""
        if not len(sources):
            return
        for source in np.unique(sources).tolist():
            of_source = sources == source
            self.documents[source] += int(of_source.sum())
            self.tokens[source] += int(num_tokens[of_source].sum())
        bits = np.frexp(num_tokens.astype(np.float64))[1]  # of an integer: its bit length
        for length, count in zip(*np.unique(bits, return_counts=True), strict=True):
            self.lengths[int(length)] += int(count)
        self.letters += letters.sum(axis=0, dtype=np.int64)
        self.longest = max(self.longest, int(num_tokens.max()))

    def sample(self, digests: np.ndarray, sources: np.ndarray, tokens_of: Callable[[int], np.ndarray]) -> None:
        """Offer documents as samples: those with the smallest digests are taken.

        Digests are as good as random numbers, so each document has the same chance, wherever it stands; and the
        same documents are chosen each time.
        """
        keys = np.ascontiguousarray(digests[:, 8:]).view(">u8")[:, 0]
        for number in np.argsort(keys, kind="stable")[:_NUM_SAMPLES].tolist():
            key = -int(keys[number])
            if len(self._samples) < _NUM_SAMPLES or key > self._samples[0][0]:
                tokens = tokens_of(number)
                self._offered -= 1  # of equal documents the earlier one is kept
                entry = (key, self._offered, int(sources[number]), len(tokens), tokens[:SAMPLE_TOKENS].copy())
                push = heapq.heappush if len(self._samples) < _NUM_SAMPLES else heapq.heappushpop
                push(self._samples, entry)

    @property
    def num_documents(self) -> int:
        return self.documents.total()

    def samples(self, sources: Sequence[str], decode: Callable[[Iterable[int]], str]) -> list[dict[str, Any]]:
        """The chosen documents: source, length in tokens, beginning."""
        chosen = sorted(self._samples, key=lambda entry: entry[:2], reverse=True)
        return [
            {"source": sources[source], "tokens": length, "text": beginning(tokens, length, decode)[:_SAMPLE_CHARS]}
            for _, _, source, length, tokens in chosen
        ]

    def languages(self) -> dict[str, float]:
        """The share of each language in all letters, as scripts show it, the largest first."""
        total = int(self.letters.sum())
        shares = {_LANGUAGE_OF.get(i, "other"): round(int(n) / total, 6) for i, n in enumerate(self.letters) if n}
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def beginning(tokens: np.ndarray, length: int, decode: Callable[[Iterable[int]], str]) -> str:
    """The text of the first `SAMPLE_TOKENS` tokens of a document of `length` tokens, up to the last whole character."""
    text = decode(tokens[:SAMPLE_TOKENS].tolist())
    return text if length <= SAMPLE_TOKENS else text.rstrip(_HALF_CHARACTER)


def cleaning_entry(read: ReadCounts) -> dict[str, Any]:
    """What rules did, for the `cleaning` entry of meta.json."""
    entry: dict[str, Any] = {"rewritten": dict(sorted(read.rewritten.items()))}
    for name, group in (("rejected", read.rejected), ("dropped", read.dropped)):
        entry[name] = dict(sorted(group.by_reason().items()))
        entry[f"{name}_tokens"] = {reason: count for reason, count in sorted(group.tokens_by_reason().items()) if count}
    entry["first"] = [
        _line_of(reject)
        for group in (read.rejected, read.dropped)
        for reason in sorted(group.first)
        for reject in group.first[reason]
    ]
    return entry


def report_entry(
    counts: SetCounts,
    read: ReadCounts,
    validation: SetCounts,
    sources: Sequence[str],
    decode: Callable[[Iterable[int]], str],
) -> dict[str, Any]:
    """The `report` entry of meta.json.

    `read` and `validation` (what went into the validation set) are empty for the validation set itself: what was
    read is told once, with the main set. For each source, rows in = rejected + dropped + documents + validation.
    """
    by_source = {}
    for number, name in enumerate(sources):
        rejected, _ = read.rejected.of_source(number)
        dropped, dropped_tokens = read.dropped.of_source(number)
        by_source[name] = {
            "rows_in": read.rows_in[number],
            "rejected": rejected,
            "dropped": dropped,
            "documents": counts.documents[number],
            "validation": validation.documents[number],
            "dropped_tokens": dropped_tokens,
            "tokens": counts.tokens[number],
            "validation_tokens": validation.tokens[number],
        }
    return {
        "rows_in": read.num_rows_in,
        "by_source": by_source,
        "lengths": {f"{1 << (n - 1)}-{(1 << n) - 1}": count for n, count in sorted(counts.lengths.items())},
        "longest": counts.longest,
        "too_long": {str(max_seq_len): count for max_seq_len, count in sorted(read.too_long.items())},
        "languages": counts.languages(),
        "samples": counts.samples(sources, decode),
    }


def describe_left_out(left_out: LeftOut) -> str:
    """Reasons with their counts, the most frequent first, each with its first row: one line."""
    parts = []
    for reason, count in left_out.by_reason().most_common(4):
        first = left_out.first[reason][0]
        detail = f": {first.detail}" if first.detail else ""
        parts.append(f"{count} {reason} (first {first.path}:{first.line}{detail})")
    return ", ".join(parts)


def report_text(meta: dict[str, Any]) -> str:
    """The report as Markdown, made from meta.json alone."""
    report = meta["report"]
    things = {"pretrain": "documents", "sft": "conversations", "dpo": "pairs"}[meta["kind"]]
    both = ", both sides of a pair together" if meta["kind"] == "dpo" else ""
    lines = [f"# {meta['name']}", "", *_much_too_long(meta, things)]
    lines += [
        f"{meta['num_documents']:,} {things}, {meta['num_tokens']:,} tokens in {meta['num_rows']:,} rows of "
        f"{meta['row_length']} (max_seq_len {meta['max_seq_len']}); {meta['num_targets']:,} are trained.",
        f"Packing efficiency {meta['packing_efficiency']:.2%} (share of slots that hold no padding), "
        f"{meta['num_repeated_tokens']:,} tokens repeated where a document goes on in the next row.",
        f"Longest: {report['longest']:,} tokens{both}. Fingerprint {meta['fingerprint'][:16]}.",
    ]
    if meta["num_straddling_tokens"]:
        lines += [f"{meta['num_straddling_tokens']:,} tokens begin before an answer and end in it: not trained."]
    if report["languages"]:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in report["languages"].items())
        lines += [f"Letters by language, as their script shows it: {shares}."]
    lines += _source_table(meta, things) + _left_out_table(meta) + _searches(meta)
    lines += ["", f"| tokens{both} | {things} |", "|---|---|"]
    lines += [f"| {span} | {count:,} |" for span, count in report["lengths"].items()]
    lines += ["", f"Some of the {things}, chosen at random:", ""]
    lines += [
        f"- {sample['source']}, {sample['tokens']:,} tokens: {_one_line(sample['text'])}"
        for sample in report["samples"]
    ]
    return "\n".join(lines) + "\n"


def _much_too_long(meta: dict[str, Any], things: str) -> list[str]:
    """When many conversations are longer than a row: how many, and a --max_seq_len that keeps nearly all."""
    too_long = {int(max_seq_len): count for max_seq_len, count in meta["report"]["too_long"].items()}
    kept = sum(counts["documents"] + counts["validation"] for counts in meta["report"]["by_source"].values())
    num_too_long = sum(too_long.values())
    total = kept + num_too_long
    if num_too_long <= _MUCH_TOO_LONG * total:
        return []
    for enough in sorted(too_long):
        kept += too_long[enough]
        if kept >= (1 - _MUCH_TOO_LONG) * total:
            break
    each_side = ", each side of a pair by itself" if meta["kind"] == "dpo" else ""
    return [
        f"**{num_too_long / total:.1%} are left out as longer than a row:** {num_too_long:,} of {total:,} {things} do "
        f"not fit into --max_seq_len {meta['max_seq_len']}{each_side}. --max_seq_len {enough} would keep "
        f"{kept / total:.1%} of them all (lengths are counted by powers of two: less may do).",
        "",
    ]


def _source_table(meta: dict[str, Any], things: str) -> list[str]:
    by_source = meta["report"]["by_source"]
    titles = {"rows_in": "rows in", "rejected": "rejected", "dropped": "dropped", "documents": things}
    titles |= {"validation": "validation", "dropped_tokens": "tokens dropped", "tokens": "tokens"}
    titles |= {"validation_tokens": "validation tokens"}
    if not any(counts["validation"] for counts in by_source.values()):
        titles = {name: title for name, title in titles.items() if not name.startswith("validation")}
    if meta["validation_of"]:  # what was read is told with the set itself
        titles = {name: title for name, title in titles.items() if name in ("documents", "tokens")}
    lines = ["", "| source | " + " | ".join(titles.values()) + " |", "|---" * (len(titles) + 1) + "|"]
    for source, counts in by_source.items():
        lines += [f"| {_cell(source)} | " + " | ".join(f"{counts[name]:,}" for name in titles) + " |"]
    return lines


def _left_out_table(meta: dict[str, Any]) -> list[str]:
    cleaning, lines = meta["cleaning"], []
    if cleaning["rewritten"]:
        lines += ["", "| rewritten by rule | documents |", "|---|---|"]
        lines += [f"| {rule} | {count:,} |" for rule, count in cleaning["rewritten"].items()]
    left_out = {"rejected (bad rows)": "rejected", "dropped (by rule)": "dropped"}
    if any(cleaning[name] for name in left_out.values()):
        lines += ["", "| left out | reason | rows | tokens |", "|---|---|---|---|"]
        for title, name in left_out.items():
            tokens = cleaning[f"{name}_tokens"]
            for reason, count in cleaning[name].items():
                lines += [f"| {title} | {reason} | {count:,} | {tokens.get(reason, 0):,} |"]
        lines += ["", "The first of each (all are in rejects.jsonl):", ""]
        lines += [f"- {first}" for first in cleaning["first"]]
    return lines


def _searches(meta: dict[str, Any]) -> list[str]:
    """What was looked for besides the rules: near-duplicates, held-out text."""
    near, held_out = meta["cleaning"].get("near_duplicates"), meta["cleaning"].get("held_out")
    lines = []
    if near:
        lines += [
            f"Near-duplicates: Jaccard similarity of at least {near['threshold']:g} of runs of {near['ngram']} "
            f"characters, found with a probability of {near['recall']:.1%} and more; "
            f"index {near['bytes_per_row']:,.0f} bytes a document, {near['index_bytes'] / 1e6:,.1f} MB."
        ]
        if near["cut_short"]:
            lines += [f"{near['cut_short']:,} documents have too many candidates; not all were compared."]
    if held_out:
        lines += [
            f"Held out: {held_out['items']:,} questions and texts of {_short_list(held_out['files'])}; dropped is what "
            f"shares {held_out['words']} words or {held_out['characters']} Chinese characters in a row with them."
        ]
        if held_out["unread"]:
            lines += [
                f"{held_out['unread']:,} rows of these files could not be read, or hold no question and no text: "
                f"what stands in them was not looked for."
            ]
    return ["", *lines] if lines else []


def _short_list(files: Sequence[str]) -> str:
    """The first few names; of the others, how many they are."""
    more = f" and {len(files) - _SHOWN_FILES:,} more files" if len(files) > _SHOWN_FILES else ""
    return ", ".join(files[:_SHOWN_FILES]) + more


def _line_of(reject: Reject) -> str:
    parts = [f"{reject.path}:{reject.line}: {reject.reason}", reject.detail, _one_line(reject.sample)]
    return ": ".join(part for part in parts if part)


def _one_line(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or row."""
    return " ".join(text.split()).replace("|", "\\|")

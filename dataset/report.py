"""What a build counts, and the report that a person reads: `report.md`, and the same in meta.json."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dataset.sources import Reject

_SHOWN_PER_REASON = 3


@dataclass
class LeftOut:
    """Rows left out, by reason, with the first few of each."""

    by_reason: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Reject]] = field(default_factory=dict)

    def add(self, reject: Reject) -> None:
        self.by_reason[reject.reason] += 1
        shown = self.first.setdefault(reject.reason, [])
        if len(shown) < _SHOWN_PER_REASON:
            shown.append(reject)

    @property
    def total(self) -> int:
        return self.by_reason.total()


@dataclass
class SetCounts:
    """Counts of one set. What was read and left out is kept with the main set, not the validation set."""

    rows_in: Counter[int] = field(default_factory=Counter)  # by source
    documents: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)  # n: documents of 2**(n-1) .. 2**n - 1 tokens
    longest: int = 0
    rejected: LeftOut = field(default_factory=LeftOut)
    dropped: LeftOut = field(default_factory=LeftOut)

    def add(self, source: int, num_tokens: int) -> None:
        """Count one document that goes into the set."""
        self.documents[source] += 1
        self.tokens[source] += num_tokens
        self.lengths[num_tokens.bit_length()] += 1
        self.longest = max(self.longest, num_tokens)

    @property
    def num_rows_in(self) -> int:
        return self.rows_in.total()

    @property
    def num_documents(self) -> int:
        return self.documents.total()

    def cleaning(self, rules: dict[str, Any]) -> dict[str, Any]:
        """The `cleaning` entry of meta.json."""
        return {
            "rules": rules,
            "rejected": dict(sorted(self.rejected.by_reason.items())),
            "dropped": dict(sorted(self.dropped.by_reason.items())),
            "first": [
                f"{reject.path}:{reject.line}: {reject.reason}{': ' if reject.detail else ''}{reject.detail}"
                for group in (self.rejected, self.dropped)
                for reason in sorted(group.first)
                for reject in group.first[reason]
            ],
        }

    def as_dict(self, sources: list[str]) -> dict[str, Any]:
        """The `report` entry of meta.json."""
        return {
            "rows_in": self.num_rows_in,
            "by_source": {
                name: {"rows_in": self.rows_in[i], "documents": self.documents[i], "tokens": self.tokens[i]}
                for i, name in enumerate(sources)
            },
            "lengths": {f"{1 << (n - 1)}-{(1 << n) - 1}": count for n, count in sorted(self.lengths.items())},
            "longest": self.longest,
        }


def describe_left_out(left_out: LeftOut) -> str:
    """Reasons with their counts, the most frequent first, each with its first row: one line."""
    parts = []
    for reason, count in left_out.by_reason.most_common(4):
        first = left_out.first[reason][0]
        detail = f": {first.detail}" if first.detail else ""
        parts.append(f"{count} {reason} (first {first.path}:{first.line}{detail})")
    return ", ".join(parts)


def report_text(meta: dict[str, Any]) -> str:
    """The report as Markdown, made from meta.json alone."""
    report, cleaning = meta["report"], meta["cleaning"]
    things = {"pretrain": "documents", "sft": "conversations", "dpo": "pairs"}[meta["kind"]]
    lines = [
        f"# {meta['name']}",
        "",
        f"{meta['num_documents']:,} {things}, {meta['num_tokens']:,} tokens in {meta['num_rows']:,} rows of "
        f"{meta['row_length']} (max_seq_len {meta['max_seq_len']}); {meta['num_targets']:,} are trained.",
        f"Packing efficiency {meta['packing_efficiency']:.2%} (share of slots that hold no padding), "
        f"{meta['num_repeated_tokens']:,} tokens repeated where a document goes on in the next row.",
        f"Longest: {report['longest']:,} tokens. Fingerprint {meta['fingerprint'][:16]}.",
    ]
    if meta["num_straddling_tokens"]:
        lines += [f"{meta['num_straddling_tokens']:,} tokens begin before an answer and end in it: not trained."]
    lines += ["", f"| source | rows in | {things} | tokens |", "|---|---|---|---|"]
    for name, counts in report["by_source"].items():
        lines += [f"| {name} | {counts['rows_in']:,} | {counts['documents']:,} | {counts['tokens']:,} |"]
    left_out = {"rejected (bad rows)": cleaning["rejected"], "dropped (by rule)": cleaning["dropped"]}
    if any(left_out.values()):
        lines += ["", "| left out | reason | rows |", "|---|---|---|"]
        for kind, reasons in left_out.items():
            lines += [f"| {kind} | {reason} | {count:,} |" for reason, count in reasons.items()]
        lines += ["", "The first of each (all are in rejects.jsonl):", ""]
        lines += [f"- {first}" for first in cleaning["first"]]
    lines += ["", f"| tokens | {things} |", "|---|---|"]
    lines += [f"| {span} | {count:,} |" for span, count in report["lengths"].items()]
    return "\n".join(lines) + "\n"

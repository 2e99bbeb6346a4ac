"""What the report of a build says first, and how."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dataset.building.report import ReadCounts, beginning
from dataset.dedup import NearDuplicateSettings
from dataset.packing import PackedSet
from model.tokenizer import ChatTokenizer

Build = Callable[..., PackedSet]


def report_of(packed: PackedSet) -> str:
    return (packed.folder / "report.md").read_text(encoding="utf-8")


def asked(*answers: str) -> list[dict[str, Any]]:
    return [{"q": f"question {number}", "a": answer} for number, answer in enumerate(answers)]


def test_much_that_is_longer_than_a_row_is_said_first(build: Build) -> None:
    packed = build(asked(*["short"] * 5, *["a" * 150] * 14, "a" * 900), kind="sft")
    assert packed.meta["report"]["too_long"] == {"256": 14, "1024": 1}
    first = report_of(packed).splitlines()[2]
    assert first.startswith("**75.0% are left out as longer than a row:**") and "15 of 20 conversations" in first
    assert "do not fit into --max_seq_len 64. --max_seq_len 256 would keep 95.0% of them all" in first
    # The length that is named keeps so many.
    longer = build(name="longer", kind="sft", max_seq_len=256)
    assert longer.meta["num_documents"] == 19
    assert "would keep" not in report_of(longer)


def test_little_that_is_longer_than_a_row_is_no_news(build: Build) -> None:
    packed = build(asked(*["short"] * 19, "a" * 150), kind="sft")
    assert packed.meta["cleaning"]["dropped"] == {"longer than a row": 1}
    assert "would keep" not in report_of(packed)


def test_what_went_into_the_validation_set_was_kept(build: Build) -> None:
    packed = build(asked(*["short"] * 50, *["a" * 150] * 50), kind="sft", val_share=0.5)
    assert "50 of 100 conversations" in report_of(packed)
    assert "would keep" not in (packed.folder.parent / f"{packed.folder.name}_val" / "report.md").read_text()


def test_lengths_of_pairs_are_of_both_sides(build: Build) -> None:
    rows = [{"prompt": f"q{number}", "chosen": "yes" * 40, "rejected": "no"} for number in range(3)]
    rows += [{"prompt": f"q{number}", "chosen": "y", "rejected": "n"} for number in range(3)]
    packed = build(rows, kind="dpo")
    report = report_of(packed)
    assert "tokens, both sides of a pair together. Fingerprint" in report
    assert "| tokens, both sides of a pair together | pairs |" in report
    assert "3 of 6 pairs do not fit into --max_seq_len 64, each side of a pair by itself. --max_seq_len 256" in report


def test_the_length_that_is_counted_is_the_next_power_of_two() -> None:
    for needed in (*range(1, 70), 511, 512, 513, 1 << 20):
        counts = ReadCounts()
        counts.add_too_long(needed)
        [enough] = counts.too_long
        assert needed <= enough < 2 * needed and bin(enough).count("1") == 1


def test_samples_end_with_a_whole_character(build: Build, tokenizer: ChatTokenizer) -> None:
    # Three bytes a character and one token a byte: a hundred tokens end inside of one.
    packed = build([{"text": "好" * 80}, {"text": "x" + "好" * 80}, {"text": "xy" + "好" * 80}])
    samples = [sample["text"].replace("<|endoftext|>", "") for sample in packed.meta["report"]["samples"]]
    assert sorted(map(len, samples)) == [33, 33, 34]
    assert "\ufffd" not in report_of(packed)
    # What a document itself ends in is its own.
    tokens = np.array(tokenizer.encode("odd \ufffd"))
    assert beginning(tokens, len(tokens), tokenizer.decode) == "odd \ufffd"


def test_held_out_rows_that_were_not_read_are_told(build: Build, tmp_path: Path) -> None:
    exam = tmp_path / "exam"
    exam.mkdir()
    for number in range(5):
        row = {"question": f"Which of the {number} harbours has the oldest lighthouse of them all?"}
        (exam / f"{number}.jsonl").write_text(json.dumps(row) + "\n" + '{"foo": "bar"}\n' * number)
    report = report_of(build([{"text": "x"}], decontaminate=(str(exam),)))
    [held_out] = re.findall("Held out: .*", report)
    assert held_out.startswith("Held out: 5 questions and texts of ") and " and 2 more files; dropped" in held_out
    assert "0.jsonl" in held_out and "4.jsonl" not in held_out
    assert "\n10 rows of these files could not be read, or hold no question and no text" in report
    report = report_of(build(name="one", decontaminate=(str(exam / "0.jsonl"),)))
    assert "more files" not in report and "could not be read" not in report


def test_conversations_that_differ_in_what_is_said_aside_are_no_near_duplicates(build: Build) -> None:
    said_aside: list[dict[str, Any]] = [
        {"reasoning_content": "Two and three and twelve."},
        {"reasoning_content": "I have counted every ship twice, slowly, at dawn."},
        {"tool_calls": [{"name": "count", "arguments": {"where": "the northern harbour behind the lighthouse"}}]},
        {"tool_calls": [{"name": "count", "arguments": {"where": "a list of vessels from last October"}}]},
    ]
    question = {"role": "user", "content": "Please solve my question about the ships in the harbour."}
    answer = {"role": "assistant", "content": "Seventeen is the answer to this one."}
    rows = [{"messages": [question, answer | more]} for more in said_aside]
    packed = build(rows, kind="sft", max_seq_len=400, near=NearDuplicateSettings(threshold=0.7))
    assert packed.meta["num_documents"] == 4

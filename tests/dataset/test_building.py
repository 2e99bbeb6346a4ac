import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.building.encoding import last_turn_only
from dataset.building.working_folder import working_folders
from dataset.cleaning import CleaningRules
from dataset.packing import PackedSet
from model.chat import encode_conversation
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.packed_sets import documents_of, hashes

TEXTS = [f"Document {number} says {'word ' * (number * 7 % 90)}and ends." for number in range(300)]


def test_pretraining_text_comes_out_whole(build, tokenizer: ChatTokenizer) -> None:
    packed = build([{"text": f"  {text}\n"} for text in TEXTS])
    texts = []
    for tokens in documents_of(packed):
        assert tokens[0] == tokens[-1] == tokenizer.bos_token_id == 0
        texts.append(tokenizer.decode(tokens[1:-1], skip_special_tokens=False))
    assert sorted(texts) == sorted(TEXTS)
    num_tokens = sum(len(tokenizer.encode(text)) + 2 for text in TEXTS)
    assert packed.meta["num_tokens"] == num_tokens
    assert packed.meta["num_documents"] == len(TEXTS)
    assert packed.meta["num_targets"] == num_tokens - len(TEXTS)
    assert packed.meta["packing_efficiency"] > 0.99
    assert packed.sources == ["rows"]


def conversation(number: int, turns: int = 1, **more: Any) -> dict[str, Any]:
    messages = []
    for turn in range(turns):
        messages += [
            {"role": "user", "content": f"q{number}.{turn}"},
            {"role": "assistant", "content": f"a{turn}"},
        ]
    return {"messages": messages, **more}


def test_conversations_stay_whole_with_their_masks(build, tokenizer: ChatTokenizer) -> None:
    rows = [conversation(number, 1 + number % 2) for number in range(50)]
    packed = build(rows, kind="sft", max_seq_len=200)
    expected = []
    for row in rows:
        chat = encode_conversation(tokenizer, row["messages"])
        expected.append((chat.token_ids, [False, *chat.loss_mask[1:]]))
    found = []
    for segment in packed.segments:
        span = slice(segment["start"], segment["start"] + segment["length"])
        mask = packed.mask[segment["row"], span].tolist()
        found.append((packed.tokens[segment["row"], span].tolist(), mask))
        assert segment["targets"] == sum(mask)
    assert sorted(found) == sorted(expected)
    batch = packed.batch(np.arange(packed.num_rows))
    trained = tokenizer.decode(batch["targets"][batch["targets"] >= 0], skip_special_tokens=False)
    assert trained.count("<|im_end|>") == sum(1 + number % 2 for number in range(50))
    assert "q" not in trained.replace("<|im_end|>", "")


def test_preference_pairs_are_side_by_side_and_only_answers_train(build, tokenizer: ChatTokenizer) -> None:
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "old"}]
    rows = [
        {
            "prompt": [*history, {"role": "user", "content": f"q{n}"}],
            "chosen": f"good{n}",
            "rejected": "bad" * (n % 3 + 1),
        }
        for n in range(20)
    ]
    packed = build(rows, kind="dpo", max_seq_len=150)
    assert packed.row_length == 2 * 151
    assert packed.segments["role"].tolist() == [2, 3] * 20
    assert packed.segments["row"][::2].tolist() == packed.segments["row"][1::2].tolist()
    for pair in range(20):
        sides = []
        for segment in packed.segments[2 * pair : 2 * pair + 2]:
            span = slice(segment["start"], segment["start"] + segment["length"])
            tokens, mask = packed.tokens[segment["row"], span], packed.mask[segment["row"], span]
            sides.append(tokenizer.decode(tokens[mask], skip_special_tokens=False))
        number = sides[0].removeprefix("good").removesuffix("<|im_end|>")
        assert sides == [f"good{number}<|im_end|>", "bad" * (int(number) % 3 + 1) + "<|im_end|>"]


def test_last_turn_only() -> None:
    assert last_turn_only([True, False, True, True, False]) == [False, False, True, True, False]
    assert last_turn_only([False, True]) == [False, True]
    assert last_turn_only([False, False]) == [False, False]


def test_what_is_left_out_is_counted_and_kept(build) -> None:
    rows = [conversation(number) for number in range(40)]
    rows += [rows[3], conversation(1000, turns=9), {"text": "x"}, {"messages": []}]
    packed = build(rows, kind="sft", max_reject_share=0.1)
    cleaning = packed.meta["cleaning"]
    assert cleaning["rejected"] == {"not a conversation": 1, "no turn at all": 1}
    assert cleaning["dropped"] == {"duplicate": 1, "longer than a row": 1}
    assert packed.meta["num_documents"] == 40
    kept = [json.loads(line) for line in (packed.folder / "rejects.jsonl").read_text().splitlines()]
    assert sorted((row["line"], row["reason"]) for row in kept) == [
        (41, "duplicate"),
        (42, "longer than a row"),
        (43, "not a conversation"),
        (44, "no turn at all"),
    ]
    report = (packed.folder / "report.md").read_text()
    assert "| dropped (by rule) | longer than a row | 1 |" in report
    assert "rows.jsonl:43: not a conversation: found text" in report
    assert packed.meta["report"]["by_source"]["rows"]["rows_in"] == 44


def test_a_conversation_with_nothing_to_train_never_gets_in(build, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(tokenizer: ChatTokenizer, messages: Any, tools: Any = None) -> Any:
        chat = encode_conversation(tokenizer, messages, tools)
        only_first = [True] + [False] * (len(chat.token_ids) - 1)  # a segment's first token is no target
        return replace(chat, loss_mask=only_first) if messages[0]["content"] == "q1.0" else chat

    monkeypatch.setattr("dataset.building.encoding.encode_conversation", encode)
    packed = build([conversation(0), conversation(1)], kind="sft")
    assert packed.meta["cleaning"]["dropped"] == {"nothing to train": 1}
    assert packed.meta["num_documents"] == 1
    assert (packed.segments["targets"] > 0).all()


def test_duplicates_and_lengths_by_flag(build) -> None:
    rows = [{"text": text} for text in ("same", "same", " same ", "short", "a longer text")]
    assert build(rows).meta["num_documents"] == 3
    assert build(rows, name="all", rules=CleaningRules(keep_duplicates=True)).meta["num_documents"] == 5
    packed = build(rows, name="some", rules=CleaningRules(min_chars=5, max_chars=9))
    assert packed.meta["num_documents"] == 1
    assert packed.meta["cleaning"]["dropped"] == {"too few characters": 3, "too many characters": 1}


def test_sources_by_row_and_by_file(build) -> None:
    packed = build([{"text": "a", "source": "wiki"}, {"text": "b"}, {"text": "c", "source": "wiki"}])
    assert packed.sources == ["wiki", "rows"]
    assert packed.meta["report"]["by_source"]["wiki"]["documents"] == 2
    assert sorted(packed.segments["source"].tolist()) == [0, 0, 1]
    many = build([{"text": str(n), "source": f"https://{n}"} for n in range(400)], name="many")
    assert len(many.sources) == 257  # the rest is counted under the file
    assert many.meta["report"]["by_source"]["rows"]["documents"] == 400 - 256


def test_more_sources_than_are_told_apart_in_two_files_alike(build, tmp_path: Path) -> None:
    for name in ("first", "second"):
        rows = [{"text": f"{name} {n}", "source": f"https://{n}"} for n in range(300)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    packed = build(data_path=(str(tmp_path / "first.jsonl"), str(tmp_path / "second.jsonl")))
    by_source = packed.meta["report"]["by_source"]
    assert {name: by_source[name]["documents"] for name in ("https://0", "first", "second")} == {
        "https://0": 2,
        "first": 44,
        "second": 44,
    }
    assert all(counts["rows_in"] == counts["documents"] for counts in by_source.values())


def test_validation_is_split_by_document(build, tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    rows = [{"text": text} for text in TEXTS]
    packed = build(rows, val_share=0.1)
    val = PackedSet.open(tmp_path / "packed" / "mine_val")
    assert val.meta["validation_of"] == "mine"
    train_texts = {tokenizer.decode(tokens) for tokens in documents_of(packed)}
    val_texts = {tokenizer.decode(tokens) for tokens in documents_of(val)}
    assert train_texts | val_texts == set(TEXTS)
    assert not train_texts & val_texts
    assert 10 < len(val_texts) < 60
    # The same documents in another order, among others, fall on the same side.
    build([{"text": "another"}, *reversed(rows)], val_share=0.1, name="again")
    again = {tokenizer.decode(tokens) for tokens in documents_of(PackedSet.open(tmp_path / "packed" / "again_val"))}
    assert again - {"another"} == val_texts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_any_number_of_workers_gives_the_same_bytes(
    build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rows: list[dict[str, Any]] = [{"text": text} for text in TEXTS * 2]
    if kind == "sft":
        rows = [conversation(number % 500) for number in range(600)]
    monkeypatch.setattr("dataset.building.shard_making.block_bytes", lambda inputs: 2000)  # many blocks
    monkeypatch.setattr("dataset.building.shard_making._ENOUGH_ROWS_TO_JUDGE", 10)
    alone = build(rows, kind=kind, val_share=0.2)
    shared = build(rows, kind=kind, val_share=0.2, num_workers=2, packed_dir=tmp_path / "shared")
    assert hashes(alone.folder) == hashes(shared.folder)
    assert hashes(tmp_path / "packed" / "mine_val") == hashes(tmp_path / "shared" / "mine_val")
    assert alone.fingerprint == shared.fingerprint


def test_an_equal_set_is_reused(build, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": text} for text in TEXTS]
    packed = build(rows)
    before = (packed.folder / "meta.json").stat().st_mtime_ns
    capsys.readouterr()
    build(rows)
    assert "already built" in capsys.readouterr().out
    assert (packed.folder / "meta.json").stat().st_mtime_ns == before
    build(rows, overwrite=True)  # nothing to replace: it would be the same
    assert (packed.folder / "meta.json").stat().st_mtime_ns == before


def test_another_set_of_that_name_is_not_replaced_unasked(build) -> None:
    rows = [{"text": text} for text in TEXTS]
    packed = build(rows)
    before = hashes(packed.folder)
    with pytest.raises(UserError, match=r"made with other settings \(max_seq_len\).*--overwrite"):
        build(rows, max_seq_len=32)
    with pytest.raises(UserError, match=r"made with other settings \(input\)"):
        build(rows[1:])
    with pytest.raises(UserError, match=r"made with other settings \(rules\)"):
        build(rows, rules=CleaningRules(min_chars=20))
    assert hashes(packed.folder) == before
    assert build(rows, max_seq_len=32, overwrite=True).max_seq_len == 32


def test_a_stale_validation_set_is_not_left_beside_a_new_set(build) -> None:
    rows = [{"text": text} for text in TEXTS]
    build(rows, val_share=0.1)
    with pytest.raises(UserError, match="mine_val: belongs to another build"):
        build(rows, overwrite=True)


# ---- what a user gets wrong: one line, and nothing changed ----


def test_too_many_bad_rows_stop_the_run(build, tmp_path: Path) -> None:
    rows = [{"text": "fine"}, {"body": "x", "title": "y"}, {"body": "z"}]
    with pytest.raises(
        UserError, match=r"2 of 3 rows are bad: 2 no field 'text' \(first .*:2: found body, title; name"
    ):
        build(rows)
    assert not (tmp_path / "packed" / "mine").exists()
    assert len((tmp_path / "packed" / "mine.rejects.jsonl").read_text().splitlines()) == 2
    assert build(rows, max_reject_share=0.7).meta["num_documents"] == 1
    assert build(rows, max_reject_share=0.7, text_key="body", name="other").meta["num_documents"] == 2


def test_nothing_left(build) -> None:
    with pytest.raises(UserError, match=r"nothing left to pack of 2 rows \(2 empty"):
        build([{"text": ""}, {"text": " "}])
    with pytest.raises(UserError, match=r"--val_share 1e-12: no document fell"):
        build([{"text": "x"}], val_share=1e-12)
    with pytest.raises(UserError, match=r"--val_share 1: every document fell"):
        build([{"text": "x"}], val_share=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seq_len": 0}, "--max_seq_len 0"),
        ({"val_share": 1.5}, "--val_share 1.5"),
        ({"max_reject_share": -1.0}, "--max_reject_share"),
        ({"name": "a/b"}, "--name 'a/b'"),
        ({"name": ""}, "--name ''"),
        ({"data_path": ("/no/such/file",)}, "no such file"),
    ],
)
def test_impossible_settings(build, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build([{"text": "x"}], **changes)


def test_conversations_need_a_template(build, tokenizer: ChatTokenizer) -> None:
    config = json.loads(tokenizer.files["tokenizer_config.json"])
    del config["chat_template"]
    files = {"tokenizer.json": tokenizer.files["tokenizer.json"], "tokenizer_config.json": json.dumps(config)}
    with pytest.raises(UserError, match="no chat template"):
        build([conversation(1)], kind="sft", tokenizer=ChatTokenizer.from_files(files))


def test_a_full_disk_leaves_what_was_there(build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    packed = build(rows)
    before = hashes(tmp_path / "packed")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dataset.packing._StreamedArray.append", full)
    with pytest.raises(OSError, match="No space"):
        build(rows, max_seq_len=32, overwrite=True)
    [left] = working_folders(tmp_path / "packed", "mine")
    assert [path.name for path in left.glob("shards/*")] == ["shard-000000.npz"]
    shutil.rmtree(left)
    assert hashes(tmp_path / "packed") == before
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [packed.folder.name]


@pytest.mark.slow
def test_real_text_loses_no_token(build, real_data: Path, tokenizer: ChatTokenizer) -> None:
    path = real_data / "text" / "poems.jsonl"
    packed = build(data_path=(str(path),), max_seq_len=512)
    texts = {json.loads(line)["text"].strip() for line in path.read_text(encoding="utf-8").splitlines()}
    assert sorted(documents_of(packed)) == sorted([0, *tokens, 0] for tokens in tokenizer.encode_batch(list(texts)))
    assert packed.meta["packing_efficiency"] >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "folder"), [("sft", "instruct"), ("sft", "tools"), ("dpo", "preference")])
def test_real_conversations(build, real_data: Path, kind: str, folder: str) -> None:
    packed = build(kind=kind, data_path=(str(real_data / folder),), max_seq_len=8192)
    assert packed.meta["packing_efficiency"] >= 0.95
    assert (packed.segments["targets"] > 0).all()
    rows = packed.meta["report"]["rows_in"]
    cleaning = packed.meta["cleaning"]
    left_out = sum(cleaning["rejected"].values()) + sum(cleaning["dropped"].values())
    assert packed.meta["num_documents"] == rows - left_out


def test_a_data_worker_never_loads_torch(repository: Path) -> None:
    code = "import sys, dataset.building.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository).returncode == 0

"""`train_tokenizer.py` as a user runs it: the folder it leaves, its sample, and the mistakes it names."""

import bz2
import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

import train_tokenizer
from dataset.text_sample import PIECE_CHARS, held_out_split, sample_texts
from model.errors import UserError
from model.files import sha256_of_file
from model.tokenizer import ROLES, SPECIAL_TOKENS, ChatTokenizer
from model.tokenizer_report import entry_kinds, language_figures, language_of

ENGLISH = ["the", "capital", "of", "france", "is", "paris", "and", "japan", "tokyo", "while", "river", "sea"]
CHINESE = ["法国的首都是巴黎", "日本的首都是东京", "长江是亚洲最长的河", "猫喜欢吃鱼", "春节在冬天"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all formats at once: JSON Lines, instructions, conversations, plain text with a BOM."""
    folder = tmp_path_factory.mktemp("corpus")
    numbers = random.Random(0)

    def sentence() -> str:
        english, chinese = numbers.choices(ENGLISH, k=8), numbers.choices(CHINESE, k=4)
        return " ".join(english) + ".\n" + "，".join(chinese) + "。"

    lines = [json.dumps({"text": sentence()}, ensure_ascii=False) for _ in range(400)]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows: list[object] = [{"instruction": sentence(), "input": "", "output": sentence()} for _ in range(50)]
    rows += [{"messages": [{"role": "user", "content": sentence()}]} for _ in range(50)]
    (folder / "chat.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "plain.txt").write_text("\ufeff" + "\n\n".join(sentence() for _ in range(100)), encoding="utf-8")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train_tokenizer.py", *map(str, arguments)])
    train_tokenizer.main()


def test_the_folder_serves_everyone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tokenizer"
    run(monkeypatch, "--data_path", corpus, "--tokenizer", out, "--vocab_size", 415, "--max_seq_len", 256)
    ours, theirs = ChatTokenizer.from_folder(out), AutoTokenizer.from_pretrained(out)
    assert ours.vocab_size == len(theirs) == 415
    assert sorted(theirs.get_vocab().values()) == list(range(415))
    assert theirs.model_max_length == 256
    assert theirs.chat_template == ours.chat_template == (out / "chat_template.jinja").read_text(encoding="utf-8")
    assert ours.special_tokens == {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    text = "法国的首都是巴黎 and 👍\ttabs\n\n"
    assert theirs(text).input_ids == ours.encode(text)
    assert ours.decode(ours.encode(text)) == text
    # The template writes the roles in every conversation: one entry each, though the text never names them.
    for role in ROLES:
        assert theirs.tokenize(f"<|im_start|>{role}\n") == ["<|im_start|>", role, "Ċ"]

    definition = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    assert definition["post_processor"] is None
    assert definition["normalizer"] is None
    assert definition["pre_tokenizer"]["add_prefix_space"] is False

    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert sum(report["entries_by_kind"].values()) == 415
    assert report["entries_by_kind"]["special"] == 64
    assert report["entries_by_kind"]["single byte"] == 256
    assert report["vocabulary_hash"] == ours.vocabulary_hash
    assert "held-out" in report["measured_on"]
    # It must beat one token a byte: one character in English, a third of one in Chinese.
    assert report["languages"]["English"]["characters_per_token"] > 1.1
    assert report["languages"]["Chinese"]["characters_per_token"] > 0.7
    page = (out / "report.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert "characters a token" in page


def test_the_same_text_gives_the_same_tokenizer_on_any_number_of_cores(corpus: Path, tmp_path: Path) -> None:
    def hashes(name: str, **environment: str) -> dict[str, str]:
        command = [sys.executable, "train_tokenizer.py", "--data_path", corpus, "--tokenizer", tmp_path / name]
        result = subprocess.run(
            [*map(str, command), "--vocab_size", "400", "--max_bytes", "50000"],
            cwd=Path(train_tokenizer.__file__).parent,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return {path.name: sha256_of_file(path) for path in sorted((tmp_path / name).iterdir())}

    assert hashes("one", RAYON_NUM_THREADS="1", PYTHONHASHSEED="1") == hashes("many", RAYON_NUM_THREADS="4")


def test_the_limit_on_entry_length_holds(monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path) -> None:
    for limit, longer_than in ((6, 3), (18, 9)):
        out = tmp_path / str(limit)
        arguments = ["--data_path", corpus, "--vocab_size", 415, "--max_token_length", limit]
        run(monkeypatch, *arguments, "--tokenizer", out)
        tokenizer = ChatTokenizer.from_folder(out)
        longest = max(len(tokenizer.entry_name(i)) for i in range(64, tokenizer.vocab_size))
        assert longer_than < longest <= limit


def test_the_report_measures_text_that_was_not_trained_on(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path
) -> None:
    trained_on: list[str] = []
    train_bpe = train_tokenizer.train_bpe

    def spy(pieces: list[str], settings: train_tokenizer.TokenizerSettings) -> tuple[str, int]:
        trained_on.extend(pieces)
        return train_bpe(pieces, settings)

    monkeypatch.setattr(train_tokenizer, "train_bpe", spy)
    run(monkeypatch, "--data_path", corpus, "--tokenizer", tmp_path / "out", "--vocab_size", 400, "--seed", 7)
    pieces = sample_texts([corpus], max_bytes=10**9, seed=7).pieces
    held_out = [piece for piece in pieces if piece not in set(trained_on)]
    assert len(held_out) == round(0.05 * len(pieces))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    characters = sum(figures["characters"] for figures in report["languages"].values())
    assert characters == sum(len(piece.replace("\n", "")) for piece in held_out)


# ---- the sample ----


def test_all_formats_are_read_and_all_text_is_kept_when_it_fits(corpus: Path) -> None:
    sample = sample_texts([corpus], max_bytes=10**9, seed=0)
    assert sample.num_rows == 400 + 100 + 100 * 2  # a line of plain text is a row
    assert not sample.rejects
    assert sample.num_bytes == sample.total_bytes == sum(len(piece.encode()) for piece in sample.pieces)
    text = "".join(sample.pieces)
    assert "\ufeff" not in text
    assert "{" not in text
    assert text.count("。") == 400 + 50 * 2 + 50 + 100  # every sentence once


def test_the_same_text_in_any_packing_gives_the_same_sample(corpus: Path, tmp_path: Path) -> None:
    """Compressed, in an archive, as Parquet, as a set of the hub: what is in it is what counts."""
    plain = tmp_path / "text.jsonl"
    plain.write_bytes((corpus / "text.jsonl").read_bytes())
    rows = [json.loads(line) for line in plain.read_text(encoding="utf-8").split("\n") if line]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    (tmp_path / "text.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("inner/text.jsonl.bz2", bz2.compress(plain.read_bytes()))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(plain.read_bytes())
    expected = sample_texts([plain], 50_000, seed=3)
    assert expected.num_rows == 400
    for name in ("text.parquet", "text.gz", "text.zip"):
        assert sample_texts([tmp_path / name], 50_000, seed=3) == expected
    assert sample_texts([f"hf:{tmp_path / 'set'}"], 50_000, seed=3) == expected


def test_the_sample_is_bounded_fair_and_decided_by_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{number:07d}\n" for number in range(100_000)), encoding="utf-8")
    sample = sample_texts([path], max_bytes=200_000, seed=1)
    assert 200_000 - 2 * PIECE_CHARS < sample.num_bytes <= 200_000
    assert sample.total_bytes > 700_000
    assert sample_texts([path], 200_000, seed=1).pieces == sample.pieces
    assert sample_texts([path], 200_000, seed=2).pieces != sample.pieces
    # Every part of the file is in it, not just its beginning: each tenth holds its share.
    numbers = [int(line) for piece in sample.pieces for line in piece.split("\n")]
    tenths = [sum(number // 10_000 == tenth for number in numbers) for tenth in range(10)]
    assert numbers == sorted(numbers)
    assert min(tenths) > 0.3 * len(numbers) / 10


def test_a_gigantic_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "one_line.txt"
    path.write_text("汉字 words " * 200_000, encoding="utf-8")
    tracemalloc.start()
    sample = sample_texts([path], max_bytes=100_000, seed=0)
    _, most_memory = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_memory < path.stat().st_size / 2
    assert sample.num_bytes <= 100_000
    assert max(map(len, sample.pieces)) < 2 * PIECE_CHARS
    # A line that is read in parts has a line end more for each of them, one in 64 kilobytes.
    assert path.stat().st_size <= sample.total_bytes < 1.0001 * path.stat().st_size
    assert not any("\ufffd" in piece for piece in sample.pieces)


def test_the_held_out_part_is_not_trained_on() -> None:
    pieces = [str(number) for number in range(100)]
    training, held_out = held_out_split(pieces, 0.05, seed=0)
    assert len(held_out) == 5
    assert sorted(training + held_out, key=int) == pieces
    assert held_out_split(["one"], 0.05, seed=0) == (["one"], [])
    assert [len(part) for part in held_out_split(["a", "b"], 0.05, seed=0)] == [1, 1]


# ---- the report ----


def test_languages_are_told_apart() -> None:
    assert language_of("法国的首都是 Paris。") == "Chinese"
    assert language_of("The word 猫 means cat in English.") == "English"
    assert language_of("Москва — столица России") == "other"
    assert language_of("1234 + 5") == "other"


def test_figures_count_what_is_there(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--data_path", corpus, "--tokenizer", tmp_path / "t", "--vocab_size", 320)
    bytes_only = ChatTokenizer.from_folder(tmp_path / "t")
    figures = language_figures(bytes_only, ["hello\n你好", "мир\n\nhi"])
    assert (figures["English"].characters, figures["English"].tokens) == (7, 7)
    assert (figures["Chinese"].characters, figures["Chinese"].tokens) == (2, 6)
    assert (figures["other"].characters, figures["other"].utf8_bytes, figures["other"].tokens) == (3, 6, 6)
    kinds = list(entry_kinds(bytes_only).values())
    assert kinds == ["special"] * 64 + ["single byte"] * 256


# ---- mistakes ----


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"\n \n", "white space"),
        (b"\x1f\x8b\x08" + bytes(50), "damaged or cut gzip"),
        (b"\xff\xfeh\x00i\x00", "UTF-16"),
        (b'{"id": 1}\n{"id": 2}\n', "2 of 2 rows cannot be read"),
        (b'{"text": "a"}\n{"text": 3}\n', "1 of 2 rows cannot be read"),
        (b"latin-1: caf\xe9\n", "1 of 1 rows cannot be read"),
        (b"too little text\n", "pass --vocab_size 3[0-9][0-9] or give more"),
    ],
)
def test_input_that_does_not_do_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "input.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "--data_path", path, "--tokenizer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_few_bad_rows_are_counted_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [b'{"text": "the capital of france is paris"}'] * 60
    rows[10], rows[20], rows[30] = b'{"text": broken', b'{"text": "caf\xe9"}', b'{"text": "\\ud800"}'
    path = write(tmp_path / "rows.jsonl", b"\n".join(rows) + b"\n")
    run(monkeypatch, "--data_path", path, "--tokenizer", tmp_path / "out", "--vocab_size", 330)
    warning = capsys.readouterr().err
    assert "left out 3 of 60 rows: 2 not UTF-8, 1 broken JSON" in warning
    for line in (11, 21, 31):
        assert f"rows.jsonl:{line}:" in warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", 319], "--vocab_size 319: at least 320"),
        (["--max_bytes", 0], "--max_bytes 0"),
        (["--min_frequency", 0], "--min_frequency 0"),
        (["--vocab_size", "many"], "invalid int value"),
        (["--vocabsize", 400], "vocabsize"),
        (
            ["--raw_dir", "nowhere"],
            r"nowhere/little_world/tokenizer.txt: missing; run `python data_process.py",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "--tokenizer", tmp_path / "out", *arguments)


def test_nothing_is_overwritten_unasked(monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    arguments = ["--data_path", corpus, "--tokenizer", out, "--vocab_size", 400]
    for flags in ([], ["--overwrite"]):
        with pytest.raises(UserError, match=r"exists already and holds no tokenizer"):
            run(monkeypatch, *arguments, *flags)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_second_run_trains_nothing_and_other_settings_are_refused(
    monkeypatch: pytest.MonkeyPatch, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--data_path", corpus, "--tokenizer", out, "--vocab_size", 400]
    run(monkeypatch, *arguments)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run(monkeypatch, *arguments)
    assert "already trained" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    arguments[-1] = 410
    with pytest.raises(UserError, match=r"made otherwise; pass --overwrite"):
        run(monkeypatch, *arguments)
    run(monkeypatch, *arguments, "--overwrite")
    assert ChatTokenizer.from_folder(out).vocab_size == 410


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys, runpy; sys.argv = ['train_tokenizer.py', '--help']\n"
        "try: runpy.run_path('train_tokenizer.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'model.tokenizer', 'dataset.sources'} & set(sys.modules)"
    )
    folder = Path(train_tokenizer.__file__).parent
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "python train_tokenizer.py --data_path" in result.stdout


def test_a_mistake_ends_in_one_line_and_exit_code_2(tmp_path: Path) -> None:
    folder = Path(train_tokenizer.__file__).parent
    command = [
        sys.executable,
        "train_tokenizer.py",
        "--data_path",
        str(tmp_path / "no"),
        "--tokenizer",
        str(tmp_path),
    ]
    result = subprocess.run([*command, "--overwrite"], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip() == f"error: {tmp_path / 'no'}: no such file or folder"

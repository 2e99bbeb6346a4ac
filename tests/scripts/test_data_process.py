"""`data_process.py`, run as a user would."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset.packing import PackedSet
from model.tokenizer import ChatTokenizer
from tests.full_disk import mounted
from tests.packed_sets import hashes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The little world's raw files and a tokenizer trained on them."""
    folder = tmp_path_factory.mktemp("workspace")
    for script, flags in (
        ("data_process.py", ["little_world", "--raw_dir", "raw"]),
        ("train_tokenizer.py", ["--raw_dir", "raw", "--tokenizer", "tokenizer"]),
    ):
        subprocess.run([sys.executable, str(repository / script), *flags], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def run(repository: Path, workspace: Path):
    """Run the script in the workspace; returns the finished process."""

    def run_script(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(repository / "data_process.py"),
            "--raw_dir",
            "raw",
            "--tokenizer",
            "tokenizer",
        ]
        return subprocess.run([*command, *flags], cwd=workspace, capture_output=True, text=True)

    return run_script


def test_help_answers_without_torch(repository: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(repository / "data_process.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "python data_process.py sft --data_path" in result.stdout
    assert not any(line.split("|")[-1].strip() == "torch" for line in result.stderr.splitlines())


def test_bare_call_packs_the_little_world_and_a_second_one_does_nothing(run, workspace: Path) -> None:
    first = run("--packed_dir", "packed")
    assert first.returncode == 0, first.stderr
    kinds = {}
    for path in (workspace / "packed").iterdir():
        packed = PackedSet.open(path, verify=True)
        kinds[path.name] = packed.kind
        assert packed.max_seq_len == 256
        assert packed.num_rows > 0
    sets = {"pretrain": "pretrain", "sft": "sft", "identity": "sft", "dpo": "dpo"}
    assert kinds == {f"little_world_{name}{val}": kind for name, kind in sets.items() for val in ("", "_val")}
    second = run("--packed_dir", "packed")
    assert second.returncode == 0
    assert second.stdout.count("already built") == 4


def test_own_files(run, workspace: Path) -> None:
    (workspace / "mine.json").write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Hello."}] * 2))
    result = run("sft", "--data_path", "mine.json", "--max_seq_len", "32", "--packed_dir", "packed")
    assert result.returncode == 0, result.stderr
    assert "| dropped (by rule) | duplicate | 1 |" in result.stdout
    assert PackedSet.open(workspace / "packed" / "mine", kind="sft").meta["num_documents"] == 1


@pytest.mark.parametrize(
    ("flags", "content", "message"),
    [
        (["sft"], None, "--data_path: missing"),
        (["--data_path", "bad.jsonl"], None, "need a command"),
        (["pretrain", "--data_path", "nothing.jsonl"], None, "nothing.jsonl: no such file or folder"),
        (["pretrain", "--data_path", "bad.jsonl"], b"", "bad.jsonl: the file is empty"),
        (
            ["pretrain", "--data_path", "bad.jsonl"],
            b'{"text": "a"}\n{"text": "b',
            "bad.jsonl:2: the file ends in the middle",
        ),
        (["pretrain", "--data_path", "bad.jsonl"], '{"text": "好"}\n'.encode("gb18030") * 3, "not UTF-8"),
        (["pretrain", "--data_path", "bad.jsonl"], b'{"body": "a"}\n', "no field 'text'"),
        (["pretrain", "--data_path", "bad.jsonl"], b'{"text": 1}\n', "wrong type"),
        (["pretrain", "--data_path", "bad.jsonl"], b"x" * (17 << 20), "too long"),
        (["sft", "--data_path", "bad.jsonl"], b'{"text": "a"}\n', "not a conversation"),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--tokenizer", "nowhere"],
            b'{"text": "a"}\n',
            "nowhere: no such tokenizer",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--tokenizer", "bad.jsonl"],
            b'{"text": "a"}\n',
            "bad.jsonl",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--packed_dir", "bad.jsonl"],
            b'{"text": "a"}\n',
            "expected a folder",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--max_seq_len", "many"],
            b'{"text": "a"}\n',
            "--max_seq_len",
        ),
        (["pretrain", "--data_paht", "bad.jsonl"], None, "--data_paht"),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--memory_gb", "0.1"],
            b'{"text": "a"}\n',
            "--memory_gb 0.1: too little",
        ),
        (["pretrain", "--data_path", "bad.jsonl", "--near_dedup", "1.5"], b'{"text": "a"}\n', "threshold"),
        (["pretrain", "--data_path", "bad.jsonl", "--near_dedup", "0.8", "--keep_duplicates"], b"x", "choose one"),
        (["pretrain", "--data_path", "bad.jsonl", "--decontaminate", "no.csv"], b'{"text": "a"}\n', "no.csv: no such"),
        (["pretrain", "--data_path", "bad.jsonl", "--max_chars", "-1"], b'{"text": "a"}\n', "--max_chars -1"),
        (["pretrain", "--data_path", "bad.jsonl", "--memory_gb", "nan"], b'{"text": "a"}\n', "a number of GiB"),
        (["pretrain", "--data_path", "bad.jsonl", "--max_seq_len", "100000000"], b'{"text": "a"}\n', "from 8 to"),
        (["pretrain", "--data_path", "bad.jsonl", "--num_workers", "-5"], b'{"text": "a"}\n', "-1 for one a core"),
        (["pretrain", "--data_path", "bad.jsonl", "--min_answer_chars", "5"], b'{"text": "a"}\n', "use --min_chars"),
        (["sft", "--data_path", "bad.jsonl", "--text_key", "body"], b'{"text": "a"}\n', "sft does not read it"),
        (["pretrain", "--data_path", "bad.jsonl", "--rejects", "."], b'{"text": "a"}\n', "expected a file"),
        (["pretrain", "--data_path", "bad.jsonl", "--rejects", "no/where"], b'{"text": "a"}\n', "no folder no"),
        (["pretrain", "--data_path", "bad.jsonl", "--rejects", "/dev/null"], b'{"text": "a"}\n', "no ordinary file"),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--rejects", "bad.jsonl"],
            b'{"text": "a"}\n',
            "--rejects bad.jsonl: exists and is no list of rejects",
        ),
        (["pretrain", "--data_path", "bad.jsonl", "--add_tokens", "a b"], b'{"text": "a"}\n', "no white space"),
        (["--raw_dir", "nowhere"], None, "data_process.py little_world"),
        (["sft", "--data_path", "bad.jsonl", "--chat_template", "no.jinja"], b"x", "no.jinja: no such file"),
        (["sft", "--data_path", "bad.jsonl", "--chat_template", "."], b"x", "--chat_template .: no such file"),
        (
            ["dpo", "--data_path", "bad.jsonl", "--chat_template", "bad.jsonl"],
            b"{% if %}",
            "not a Jinja template: line 1",
        ),
        (["sft", "--data_path", "bad.jsonl", "--chat_template", "bad.jsonl"], b"\xff", "bad.jsonl: not UTF-8 text"),
        (
            ["sft", "--data_path", "bad.jsonl", "--chat_template", "bad.jsonl"],
            b"{{ raise_exception('never\nagain') }}",
            "--chat_template bad.jsonl: the chat template refuses this conversation (user, assistant): never again",
        ),
        (
            ["sft", "--data_path", "bad.jsonl", "--chat_template", "bad.jsonl"],
            b"hello",
            "does not write what the assistant",
        ),
        (
            ["pretrain", "--data_path", "bad.jsonl", "--chat_template", "bad.jsonl"],
            b"x",
            "pretraining text has no turns",
        ),
        (["--chat_template", "bad.jsonl"], b"x", "--chat_template needs a command"),
    ],
)
def test_mistakes_end_in_one_line(run, workspace: Path, flags: list[str], content: bytes | None, message: str) -> None:
    if content is not None:
        (workspace / "bad.jsonl").write_bytes(content)
    result = run("--packed_dir", "other", *flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not [path for path in (workspace / "other").glob("*") if path.is_dir() or path.suffix == ".lock"]


def test_a_headed_file_loads(run, workspace: Path) -> None:
    (workspace / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "with a byte order mark"}\n')
    assert run("pretrain", "--data_path", "bom.jsonl", "--packed_dir", "packed").returncode == 0


def test_workers_beside_folders_named_like_our_packages(run, workspace: Path) -> None:
    """Started elsewhere, where `dataset/` holds raw data as a rule; a user's package of a name of ours is no other."""
    rows = "".join(json.dumps({"instruction": f"Say {number}.", "output": f"{number}"}) + "\n" for number in range(300))
    path = workspace / "dataset" / "raw" / "mine.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(rows)
    package = workspace / "model" / "__init__.py"
    package.parent.mkdir()
    package.write_text("raise RuntimeError('a user keeps this here')\n")
    flags = ("sft", "--data_path", "dataset/raw/mine.jsonl", "--max_seq_len", "32", "--packed_dir")
    for num_workers in ("0", "2"):
        result = run(*flags, f"packed_by_{num_workers}", "--num_workers", num_workers)
        assert result.returncode == 0, result.stderr
    shutil.rmtree(package.parent)
    assert hashes(workspace / "packed_by_2") == hashes(workspace / "packed_by_0")


@pytest.fixture(scope="module")
def large(workspace: Path) -> Path:
    """A file that takes some seconds to pack, and so gives time to stop it."""
    path = workspace / "large.jsonl"
    with open(path, "w") as file:
        for number in range(200_000):
            file.write(json.dumps({"text": f"{number} " + "many words " * 10}) + "\n")
    return path


def start_packing(repository: Path, large: Path, packed_dir: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(repository / "data_process.py"), "pretrain", "--data_path", large.name]
    command += ["--tokenizer", "tokenizer", "--packed_dir", packed_dir, "--num_workers", "2", *flags]
    return subprocess.Popen(
        command,
        cwd=large.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def uninterrupted(repository: Path, large: Path) -> dict[str, str]:
    process = start_packing(repository, large, "whole")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return hashes(large.parent / "whole")


def wait_for(process: subprocess.Popen[str], packed_dir: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(packed_dir.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("sent", "code", "pattern", "wait"),
    [
        (signal.SIGINT, 130, ".large.building-*", 0.5),  # while the workers start
        (signal.SIGINT, 130, ".large.building-*/shards/*0.npz", 0.5),  # while they work
        (signal.SIGTERM, 143, ".large.building-*/shards/*0.npz", 0.5),
        (signal.SIGKILL, -9, ".large.building-*/shards/*0.npz", 0.5),
        (signal.SIGKILL, -9, ".large.building-*/large/tokens.npy", 0.0),  # while rows are written
    ],
)
def test_a_stopped_run_goes_on(
    repository: Path, large: Path, uninterrupted, sent: signal.Signals, code: int, pattern: str, wait: float
) -> None:
    packed_dir = large.parent / "stopped"
    shutil.rmtree(packed_dir, ignore_errors=True)
    process = start_packing(repository, large, "stopped")
    wait_for(process, packed_dir, pattern)
    time.sleep(wait)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does: every process of the group
    else:
        process.send_signal(sent)
    # Returns when nobody holds the other end of the pipes any more: no worker lives on.
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    left = {path.name for path in packed_dir.iterdir()} - {".large.lock"}
    assert left == {name for name in left if name.startswith(".large.building-")}, "no half set"
    if sent != signal.SIGKILL:
        assert not (packed_dir / ".large.lock").exists()
    finished_shards = len(list(packed_dir.glob(".large.building-*/shards/*")))
    assert finished_shards or pattern.endswith("building-*")
    assert ("goes on after the last finished shard" in errors) == bool(finished_shards and sent != signal.SIGKILL)
    again = start_packing(repository, large, "stopped")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert ("going on after" in output) == bool(finished_shards)
    assert hashes(packed_dir) == uninterrupted


def test_ranks_that_start_together_build_once(repository: Path, large: Path, uninterrupted) -> None:
    ranks = [start_packing(repository, large, "shared") for _ in range(3)]
    outputs = [rank.communicate(timeout=180) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], outputs
    assert sum("already built" in output for output, _ in outputs) == 2
    assert sum("waiting" in output for output, _ in outputs) == 2
    assert hashes(large.parent / "shared") == uninterrupted


def test_a_disk_that_gets_full(repository: Path, large: Path, uninterrupted) -> None:
    """Finished shards stay; with more space the same command ends with the same set."""
    disk = large.parent / "disk"
    with mounted(disk, "size=60m"):
        (disk / "ballast").write_bytes(b"x" * (45 << 20))
        process = start_packing(repository, large, "disk")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert errors.startswith("error: ") and errors.count("\n") == 1 and "disk is full" in errors
        (disk / "ballast").unlink()
        mount = subprocess.run(["mount", "-o", "remount,size=300m", str(disk)])
        assert mount.returncode == 0
        again = start_packing(repository, large, "disk")
        _, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
        assert hashes(disk) == uninterrupted


def test_the_rejects_of_every_kind_and_their_file(run, workspace: Path) -> None:
    rows = [{"text": f"A sentence about the number {number}, long enough to be compared."} for number in range(50)]
    rows += [rows[0], {"text": rows[1]["text"] + "!"}, {"text": "x"}, {"text": "held out " * 20}, {"body": "no text"}]
    (workspace / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workspace / "exam.jsonl").write_text(json.dumps({"question": "held out " * 20}) + "\n")
    flags = ["--near_dedup", "--min_chars", "5", "--decontaminate", "exam.jsonl", "--rejects", "left_out.jsonl"]
    result = run("pretrain", "--data_path", "rows.jsonl", "--packed_dir", "clean", *flags)
    assert result.returncode == 0, result.stderr
    packed = PackedSet.open(workspace / "clean" / "rows")
    dropped = packed.meta["cleaning"]["dropped"]
    assert dropped["duplicate"] == 1 and dropped["too few characters"] == 1
    assert dropped["shares text with a held-out file"] == 1
    assert dropped["near-duplicate"] >= 1
    assert packed.meta["cleaning"]["rejected"] == {"no field 'text'": 1}
    assert packed.meta["num_documents"] == len(rows) - sum(dropped.values()) - 1
    kept = [json.loads(line) for line in (workspace / "left_out.jsonl").read_text().splitlines()]
    assert len(kept) == sum(dropped.values()) + 1
    assert {row["reason"] for row in kept} == {*dropped, "no field 'text'"}
    assert "Near-duplicates: Jaccard similarity of at least 0.85" in result.stdout
    assert "Held out: 1 questions" in result.stdout


def test_added_tokens_travel_with_the_set(run, workspace: Path) -> None:
    (workspace / "few.jsonl").write_text('{"text": "one"}\n{"text": "<|map|> is typed here"}\n')
    flags = ["--packed_dir", "wide", "--add_tokens", "<|map|>,<|mark|>", "<|end_map|>"]
    assert run("pretrain", "--data_path", "few.jsonl", *flags).returncode == 0
    packed = PackedSet.open(workspace / "wide" / "few", verify=True)
    narrow, wide = (
        ChatTokenizer.from_folder(workspace / "tokenizer"),
        ChatTokenizer.from_files(packed.tokenizer_files()),
    )
    added = ["<|map|>", "<|mark|>", "<|end_map|>"]
    assert packed.meta["vocab_size"] == wide.vocab_size == narrow.vocab_size + 3
    assert [wide.special_tokens[token] for token in added] == [narrow.vocab_size + number for number in range(3)]
    assert wide.extends(narrow) and not narrow.extends(wide)
    assert packed.tokens.max() < narrow.vocab_size, "what is typed never becomes a control token"
    again = run("pretrain", "--data_path", "few.jsonl", *flags, "--overwrite", "--add_tokens", "<|im_end|>")
    assert again.returncode == 2 and "has it already" in again.stderr


def test_inspect_shows_what_is_trained(run, workspace: Path) -> None:
    rows = [{"instruction": f"Say {word}", "output": f"Here: {word}."} for word in ("one", "two", "three")]
    (workspace / "says.json").write_text(json.dumps(rows))
    assert run("sft", "--data_path", "says.json", "--packed_dir", "packed").returncode == 0
    for place in ("says", "packed/says"):
        shown = run("inspect", place, "--packed_dir", "packed", "--row", "0")
        assert shown.returncode == 0, shown.stderr
        for word in ("one", "two", "three"):
            assert f"⟦Here: {word}.<|im_end|>⟧" in shown.stdout
            assert f"Say {word}<|im_end|>" in shown.stdout
    for flags, message in (
        (["inspect"], "which set?"),
        (["inspect", "nothing"], "no such packed set"),
        (["inspect", "says.json"], "a raw file, not a packed set"),
        (["inspect", "says", "--row", "7"], "has the rows 0 to 0"),
        (["pretrain", "says"], "--data_path"),
    ):
        result = run("--packed_dir", "packed", *flags)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


YAYI_TEMPLATE = """\
{%- set names = {"system": "System", "user": "Human", "assistant": "YaYi"} -%}
{%- for message in messages -%}
    {{- "<|" ~ names[message.role] ~ "|>:\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
        {{- message.content ~ "<|End|>" -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- message.content -}}
    {%- endif -%}
    {{- "\\n\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|YaYi|>:\\n" -}}
{%- endif -%}
"""


@pytest.mark.parametrize("with_marks", [True, False])
def test_own_roles_by_a_template_of_ones_own(run, workspace: Path, with_marks: bool) -> None:
    """YaYi's rows and role tokens: exactly what the assistant says is trained, and the token that ends it."""
    turns = [("human", "What goes with tomatoes?"), ("yayi", "Basil.\nAnd <|End|> salt."), ("human", "豆腐呢？")]
    said = [{"from": role, "value": text} for role, text in [*turns, ("yayi", "酱油和葱。")]]
    rows = [{"system": "You are a cook.", "conversations": said}, {"system": "", "conversations": said[:2]}]
    (workspace / "cook.json").write_text(json.dumps(rows), encoding="utf-8")
    template = YAYI_TEMPLATE
    if not with_marks:
        lines = template.splitlines(keepends=True)
        template = "".join(line for line in lines if "generation -" not in line)
    # As some editors save it.
    (workspace / "yayi.jinja").write_bytes(b"\xef\xbb\xbf" + template.replace("\n", "\r\n").encode())
    flags = ["--add_tokens", "<|System|>", "<|Human|>", "<|YaYi|>", "<|End|>", "--chat_template", "yayi.jinja"]
    result = run("sft", "--data_path", "cook.json", "--packed_dir", "packed", "--overwrite", *flags)
    assert result.returncode == 0, result.stderr
    warned = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warned) == (not with_marks) and all("{% generation %} marks" in line for line in warned)
    packed = PackedSet.open(workspace / "packed" / "cook", kind="sft", verify=True)
    stored = ChatTokenizer.from_folder(packed.folder / "tokenizer")
    assert stored.chat_template == template and stored.template_hash == packed.template_hash
    assert stored.extends(ChatTokenizer.from_folder(workspace / "tokenizer"))
    shown = run("inspect", "cook", "--packed_dir", "packed", "--row", "0").stdout
    asked = "<|Human|>:\nWhat goes with tomatoes?\n\n<|YaYi|>:\n⟦Basil.\nAnd <|End|> salt.<|End|>⟧\n\n"
    assert (
        f"\n<|System|>:\nYou are a cook.\n\n{asked}<|Human|>:\n豆腐呢？\n\n<|YaYi|>:\n⟦酱油和葱。<|End|>⟧\n\n" in shown
    )
    assert f"──\n{asked}" in shown
    assert shown.count("⟦") == 1 + 3
    typed = stored.encode("<|End|>")
    ends = int((packed.tokens[0] == stored.control_tokens["<|End|>"]).sum())
    assert len(typed) > 1 and ends == 3, "what is typed never becomes a control token"
    # The same command does nothing; another template is another set.
    again = run("sft", "--data_path", "cook.json", "--packed_dir", "packed", *flags)
    assert again.returncode == 0 and "already built" in again.stdout
    (workspace / "yayi.jinja").write_text(template.replace("|>:", "|> "), encoding="utf-8")
    other = run("sft", "--data_path", "cook.json", "--packed_dir", "packed", *flags)
    assert other.returncode == 2 and "made with other settings (chat_template)" in other.stderr


def test_recipes_by_name(run, repository: Path, workspace: Path) -> None:
    fixture = min((repository / "tests" / "fixtures" / "recipes").glob("belle*"))
    result = run("sft", "--recipe", "belle", "--data_path", str(fixture), "--packed_dir", "packed")
    assert result.returncode == 0, result.stderr
    assert "licence" in result.stdout
    assert PackedSet.open(workspace / "packed" / "belle", kind="sft").num_rows > 0
    for flags, message in (
        (["sft", "--recipe", "bell"], "did you mean belle?"),
        (["dpo", "--recipe", "belle"], "is packed with: python data_process.py sft"),
        (["sft", "--recipe", "baike2018qa"], "fetch it by hand"),
        (["--recipe", "belle"], "need a command"),
    ):
        refused = run(*flags)
        assert refused.returncode == 2 and message in refused.stderr and refused.stderr.count("\n") == 1

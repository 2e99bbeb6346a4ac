"""The numbered scripts, run as a user would: as processes of their own, or, for the many mistakes, in this one."""

import importlib
import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.accidents import Ranks, load_libraries
from tests.tiny_chain import FULL_SFT, PRETRAIN, SIZES, Finished, RunScript, contents


def _environment() -> dict[str, str]:
    """That of a user: our folder is found because the script lies in it, not because a test says so."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="session")
def start_script(repository: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a script as a process of its own in `folder`."""

    def start(script: str, *flags: object, folder: Path, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(repository / script), *map(str, flags)]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, env=_environment(), text=True, **{**pipes, **options})

    return start


@pytest.fixture(scope="session")
def run_script(start_script: Callable[..., subprocess.Popen[str]]) -> RunScript:
    """Run a script as a process of its own in `folder`."""

    def run(script: str, *flags: object, folder: Path, **options: Any) -> Finished:
        process = start_script(script, *flags, folder=folder, **options)
        output, errors = process.communicate(timeout=300)
        return Finished(process.returncode, output, errors)

    return run


@pytest.fixture(scope="session")
def run_here(repository: Path) -> RunScript:
    """Run a script in this process, which has torch loaded: a mistake then costs no seconds."""

    def run(script: str, *flags: object, folder: Path) -> Finished:
        output, errors = io.StringIO(), io.StringIO()
        argv = [script, *map(str, flags)]
        with (
            chdir(folder),
            mock.patch.object(sys, "argv", argv),
            redirect_stdout(output),
            redirect_stderr(errors),
            pytest.raises(SystemExit) as leaving,
        ):
            runpy.run_path(str(repository / script), run_name="__main__")
        code = leaving.value.code
        assert isinstance(code, int)
        return Finished(code, output.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def grown(run_here: RunScript, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder after the whole chain on a few lines of text; tests copy it and leave it as it is.

    tokenizer/, packed/{text,chat,pairs} with validation sets, out/{pretrain,full_sft}_32.pth; besides them
    packed/longer (rows that the model cannot read), packed/foreign (another tokenizer) and packed/template (another
    chat template).
    """
    folder = tmp_path_factory.mktemp("grown")
    numbers = random.Random(0)
    sentence = "the capital of france is paris and of japan it is tokyo while a river meets the sea"
    words = sentence.split()
    texts = [" ".join(numbers.choices(words, k=12)) + "。法国的首都是巴黎" for _ in range(60)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [{"instruction": " ".join(numbers.choices(words, k=3)), "output": numbers.choice(words)} for _ in range(40)]
    (folder / "chat.json").write_text(json.dumps(rows), encoding="utf-8")
    sides = {"chosen": ("paris is", "a river"), "rejected": ("tokyo is", "a sea")}
    pairs = [
        {"prompt": row["instruction"], **{side: " ".join(numbers.choices(said, k=3)) for side, said in sides.items()}}
        for row in rows
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")

    def grow(script: str, *flags: object) -> None:
        finished = run_here(script, *flags, folder=folder)
        assert finished.code == 0, finished.errors

    def pack(kind: str, source: str, name: str, *flags: object, tokenizer: str = "tokenizer") -> None:
        chosen = ["--data_path", source, "--name", name, "--tokenizer", tokenizer, "--packed_dir", "packed"]
        grow("data_process.py", kind, *chosen, "--max_seq_len", 64, *flags)

    grow("train_tokenizer.py", "--data_path", "text.jsonl", "--vocab_size", 340, "--tokenizer", "tokenizer")
    pack("pretrain", "text.jsonl", "text", "--val_share", 0.1)
    pack("sft", "chat.json", "chat", "--val_share", 0.1)
    pack("dpo", "pairs.json", "pairs", "--val_share", 0.2)
    pack("sft", "chat.json", "longer", "--max_seq_len", 128)
    grow("train_tokenizer.py", "--data_path", "text.jsonl", "--vocab_size", 330, "--tokenizer", "foreign")
    pack("sft", "chat.json", "foreign", tokenizer="foreign")
    shutil.copytree(folder / "tokenizer", folder / "template")
    template = folder / "template" / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{# another #}", encoding="utf-8")
    pack("sft", "chat.json", "template", tokenizer="template")
    grow("1-pretrain.py", *PRETRAIN, *SIZES, "--max_steps", 4)
    grow("3-full_sft.py", *FULL_SFT, "--max_steps", 4)
    return folder


@pytest.fixture(scope="session")
def run_ranks(repository: Path) -> Iterator[Callable[..., list[Finished]]]:
    """Run a script in so many processes of one run, without a launcher; see `tests/accidents.py`."""
    load_libraries(repository)
    started: list[Ranks] = []

    def run(script: str, *flags: object, folder: Path, number: int = 2, accident: str = "nothing") -> list[Finished]:
        started.append(Ranks(folder, repository / script, [*flags], number, accident))
        return started[-1].finished()

    yield run
    for ranks in started:
        ranks.kill()


@pytest.fixture
def workspace(grown: Path, tmp_path: Path) -> Path:
    """A copy of the grown folder that a test may change."""
    return shutil.copytree(grown, tmp_path / "workspace")


@pytest.fixture
def refused(run_here: RunScript, workspace: Path) -> Callable[..., str]:
    """Run a script that must end in one line, with exit code 2, and with every file as it was; returns the line."""

    def refuse(script: str, *flags: object, run: RunScript = run_here, folder: Path = workspace) -> str:
        before = contents(workspace)
        finished = run(script, *flags, folder=folder)
        assert re.fullmatch(r"error: [^\n]+\n", finished.errors), finished.errors
        assert finished.code == 2
        assert contents(workspace) == before
        return finished.errors

    return refuse


@pytest.fixture
def stop_at(monkeypatch) -> Callable[[int], None]:
    """Send this process SIGTERM in the update after so many."""

    def choose(steps: int) -> None:
        loop: Any = importlib.import_module("trainer.loop")
        usual = loop.make_update

        def make_update(engine: Any, objective: Any, step: Any, *others: Any) -> Any:
            if step.index == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return usual(engine, objective, step, *others)

        monkeypatch.setattr(loop, "make_update", make_update)

    return choose


@pytest.fixture
def stop_during(start_script: Callable[..., subprocess.Popen[str]]) -> Callable[..., Finished]:
    """Start a script, wait until `path` exists, send the process a signal, and wait for its end."""

    def stop(
        script: str, *flags: object, folder: Path, path: str, sent: signal.Signals, group: bool = False
    ) -> Finished:
        process = start_script(script, *flags, folder=folder, start_new_session=True)
        deadline = time.monotonic() + 120
        while not (folder / path).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # A terminal sends Ctrl-C to every process of the group, data workers included.
        (os.killpg if group else os.kill)(process.pid, sent)
        output, errors = process.communicate(timeout=120)
        return Finished(process.returncode, output, errors)

    return stop

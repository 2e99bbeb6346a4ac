"""Start the numbered scripts as a user does: with python, torchrun, or under DeepSpeed."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Launched:
    """How many processes, and what joins them."""

    processes: int = 1
    zero: str | None = None  # "zero1", …

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.processes} × {self.zero or ('DDP' if self.processes > 1 else 'python')}"


def command(script: str, flags: Sequence[object], launched: Launched = Launched()) -> list[str]:
    """The command line; every process gets one thread, so that sums do not depend on how cores are shared."""
    start = [sys.executable]
    if launched.processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(launched.processes)]
    end = ["--deepspeed", launched.zero] if launched.zero else []
    return [*start, str(REPOSITORY / script), *map(str, flags), *end]


def start(
    script: str, flags: Sequence[object], launched: Launched = Launched(), folder: Path | None = None, **options: Any
) -> subprocess.Popen[str]:
    """A process of its own, in a group of its own, so that all that it starts can be killed with it."""
    # DeepSpeed and torch.compile call ninja, which lies beside this python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(
        command(script, flags, launched),
        cwd=folder or REPOSITORY,
        env={**os.environ, "PATH": path},
        text=True,
        start_new_session=True,
        **{**pipes, **options},
    )


def run(script: str, *flags: object, launched: Launched = Launched(), folder: Path | None = None) -> str:
    """Run a script to its end. Returns what it said; where it fails, so do we."""
    process = start(script, flags, launched, folder)
    try:
        output, _ = process.communicate()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)  # Ctrl-C reaches our own group alone
        raise
    if process.returncode:
        print(output, file=sys.stderr)
        sys.exit(f"{script} on {launched.name} ended with exit code {process.returncode}")
    return output


def run_here(script: str, *flags: object, log: Path) -> None:
    """Run a script in this process, where its parts can be watched or disturbed; what it says goes into a file."""
    main = runpy.run_path(str(REPOSITORY / script), run_name=Path(script).stem)["main"]
    with (
        open(log, "w", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        mock.patch.object(sys, "argv", [script, *map(str, flags)]),
    ):
        code = main()
    if code:
        sys.exit(code)  # Ctrl-C: the run has finished its step and said so, in its log


def losses(run_folder: Path) -> list[float]:
    """The training loss of every update, from metrics.jsonl."""
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]

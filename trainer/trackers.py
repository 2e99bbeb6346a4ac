"""Experiment trackers, when asked for: Weights & Biases and TensorBoard. After a restart the same run goes on there."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from model.errors import UserError
from trainer.metrics import flat_numbers


def new_tracker_id() -> str:
    """A name for a run at wandb that no other run has.

    The caller stores it before it starts the tracker, so that a run killed before its first saved step goes on under
    the same one.
    """
    return secrets.token_hex(4)


class Tracker(Protocol):
    """What `Trackers` sends its rows to."""

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Send one row of metrics.jsonl."""

    def close(self) -> None:
        """Flush what is left."""


class Trackers:
    """All trackers of a run; none on ranks other than the main one, or when none is asked for.

    Args:
        folder: the run's folder; what a tracker stores goes there.
        name: what wandb calls the run.
        config: what makes the run this run, by name.
        wandb_project: log to Weights & Biases, in this project; None does not.
        wandb_id: wandb's own name of the run, the same after each restart (`new_tracker_id`).
        tensorboard: log to TensorBoard, in `folder/tensorboard`.
        resume_step: the step gone on from.
        enabled: False on all ranks but one.

    Raises:
        UserError: a tracker that was asked for cannot start.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        *,
        wandb_project: str | None = None,
        wandb_id: str | None = None,
        tensorboard: bool = False,
        resume_step: int = 0,
        enabled: bool = True,
    ) -> None:
        self._trackers: list[Tracker] = []
        if enabled and tensorboard:
            self._trackers.append(_TensorBoard(folder / "tensorboard", resume_step))
        if enabled and wandb_project is not None:
            assert wandb_id is not None, "without a stored id a restart would be another run"
            self._trackers.append(_Wandb(folder, wandb_project, name, wandb_id, config))

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Send one row of metrics.jsonl to each tracker. One that fails is left out from then on, with a warning."""
        for tracker in list(self._trackers):
            try:
                tracker.log(kind, step, values)
            except (OSError, RuntimeError, ValueError) as error:
                self._drop(tracker, error)

    def close(self) -> None:
        """Flush what is left."""
        for tracker in list(self._trackers):
            try:
                tracker.close()
            except (OSError, RuntimeError, ValueError) as error:
                self._drop(tracker, error)
        self._trackers.clear()

    def _drop(self, tracker: Tracker, error: Exception) -> None:
        # metrics.jsonl has every row, and the training is worth more than its picture elsewhere.
        self._trackers.remove(tracker)
        print(f"warning: {tracker} failed and is left out from now on ({_first_line(error)})", file=sys.stderr)


class _Wandb:
    def __init__(self, folder: Path, project: str, name: str, run_id: str, config: Mapping[str, Any]) -> None:
        import wandb

        advice = "run `wandb login`, or set WANDB_MODE=offline and upload later with `wandb sync`"
        self._error: type[Exception] = wandb.Error
        try:
            mode = wandb.setup().settings.mode
            # Never a question on the terminal: a run that was started for the night would wait for an answer.
            if mode in (None, "online", "shared") and not wandb.login(prompt=False, verify=False):
                raise UserError(f"--use_wandb: not logged in; {advice}")
            self._wandb, self._run = (
                wandb,
                wandb.init(
                    project=project,
                    name=name,
                    id=run_id,
                    resume="allow",
                    config=dict(config),
                    dir=folder,
                    # The progress bar is ours; a copy of every redrawing of it is of no use there.
                    settings=wandb.Settings(console="off"),
                ),
            )
            # wandb's own count of steps never goes back, but ours does after a rollback or a crash: rows that repeat a
            # step would be dropped. So it counts rows, and the step is a metric that the others are drawn over.
            self._run.define_metric("step", hidden=True)
            self._run.define_metric("*", step_metric="step")
        except wandb.Error as error:
            raise UserError(f"--use_wandb: cannot start ({_first_line(error)}); {advice}") from error

    def __str__(self) -> str:
        return "Weights & Biases"

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        rows: dict[str, Any] = flat_numbers(values, f"{kind}/")
        texts = _texts(values)
        if texts:
            rows["samples"] = self._wandb.Table(columns=["step", "prompt", "text"], data=[[step, *t] for t in texts])
        self._tell(rows, step)

    def _tell(self, rows: dict[str, Any], step: int) -> None:
        try:
            self._run.log({**rows, "step": step})
        except self._error as error:
            raise RuntimeError(str(error)) from error

    def close(self) -> None:
        try:
            self._run.finish()
        except self._error as error:
            raise RuntimeError(str(error)) from error


class _TensorBoard:
    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process showed of later steps is hidden: those steps are made again. A flush every few
        # seconds (two minutes by default), so that a killed run leaves about what metrics.jsonl has.
        self._open = lambda first: SummaryWriter(str(folder), purge_step=first, flush_secs=10)
        self._writer, self._step = self._open(resume_step + 1 if resume_step else 0), resume_step

    def __str__(self) -> str:
        return "TensorBoard"

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if step < self._step:  # a rollback
            self._writer.close()
            self._writer = self._open(step + 1)
        self._step = step
        for name, value in flat_numbers(values).items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        for number, (prompt, text) in enumerate(_texts(values)):
            # TensorBoard shows text as Markdown; indented lines stand as they are.
            self._writer.add_text(f"samples/{number}", _indented(f"{prompt} → {text}"), step)

    def close(self) -> None:
        self._writer.close()


def _texts(values: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Prompts and what the model made of them."""
    return [(sample["prompt"], sample["text"]) for sample in values.get("samples", [])]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

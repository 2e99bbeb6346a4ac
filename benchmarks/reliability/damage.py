"""Whether a flipped byte or a cut in a saved file is always noticed.

    python -m benchmarks.reliability.damage                        200 flipped bytes and 50 cuts
    python -m benchmarks.reliability.damage --flips 4000 --truncations 1000 --seed 7

A `.pth` and a resume folder with two saved steps are written, then damaged one place at a time: a random byte of one
file is changed, or the file ends at a random place; each file gets its share. A damage is *named* when loading the
`.pth` raises a UserError that starts with its path, and when the resume folder gives the step before the damaged one
with a warning that names the damaged one, which loaded by itself raises a UserError that names it. It may also be
*identical*: what is loaded equals the undamaged to the bit (a byte of padding, or the pointer `latest`). Anything else
has slipped through: another exception, a damage that nothing is said of, values that differ.
"""

import contextlib
import io
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_of
from model.config import LMConfig
from model.decoder import CausalLM
from model.errors import UserError, run_script
from trainer.saving import write_step
from trainer.settings import flag, parse_settings
from trainer.state import LATEST, MANIFEST, STATE, TENSORS, SavedStep, TrainState, load_newest, load_step

NAMED, IDENTICAL = "named", "identical"
OLDER, NEWER = 20, 40  # the saved steps


@dataclass(frozen=True)
class DamageSettings:
    """How much damage is done."""

    flips: int = flag(200, "single bytes to change, each in a file of its own")
    truncations: int = flag(50, "files to cut")
    seed: int = flag(1, "of the places")


@dataclass(frozen=True)
class Damage:
    """One place in one file. `kind` is "flipped byte" or "cut"."""

    file: str  # relative to the folder
    kind: str
    outcome: str  # NAMED, IDENTICAL, or what happened instead


def main() -> int:
    """Settings → files → damages, one at a time → table. Exit code 1 when one slipped through."""
    (settings,) = parse_settings(DamageSettings, description=__doc__)
    if min(settings.flips, settings.truncations, settings.seed) < 0:
        raise UserError("--flips, --truncations and --seed: expected at least 0")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), settings.flips, settings.truncations, settings.seed)
    print(table(found))
    return 1 if slipped_through(found) else 0


def measure(folder: Path, flips: int, truncations: int, seed: int) -> list[Damage]:
    """Write the files into `folder`, damage them in so many random places, and see what loading says."""
    judges = write_files(folder)
    chance = random.Random(seed)
    found = []
    for number in range(flips + truncations):
        kind = "flipped byte" if number < flips else "cut"
        name = list(judges)[number % len(judges)]
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, chance) if kind == "flipped byte" else whole[: chance.randrange(len(whole))])
        try:
            found.append(Damage(name, kind, outcome(judges[name])))
        finally:
            path.write_bytes(whole)
    return found


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The same bytes but for one, which is any other value."""
    damaged = bytearray(data)
    damaged[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    return bytes(damaged)


def outcome(judge: Callable[[], str]) -> str:
    """What a judge finds, or the exception that nobody should ever see."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of old formats that a damaged file seems to have
        try:
            return judge()
        except Exception as error:  # noqa: BLE001 - any kind is what is looked for
            return f"{type(error).__name__}: {error}"


def slipped_through(found: list[Damage]) -> list[Damage]:
    """The damages that were neither named nor without any effect."""
    return [each for each in found if each.outcome not in (NAMED, IDENTICAL)]


def table(found: list[Damage]) -> str:
    """How each file's damages ended, and the first of those that slipped through."""
    lines = [f"{'':44} damages   named  identical  slipped through"]
    for file, kind in dict.fromkeys((each.file, each.kind) for each in found):
        lines.append(_row(f"{file}, {kind}", [each for each in found if (each.file, each.kind) == (file, kind)]))
    lines.append(_row("all", found))
    slipped = slipped_through(found)
    lines += [f"slipped through: {each.file}, {each.kind}: {each.outcome}" for each in slipped[:10]]
    lines.append(f"{len(found) - len(slipped)} of {len(found)} damages are named or without any effect")
    return "\n".join(lines)


def _row(name: str, found: list[Damage]) -> str:
    counts = Counter(each.outcome for each in found)
    slipped = len(slipped_through(found))
    return f"{name:44} {len(found):7,} {counts[NAMED]:7,} {counts[IDENTICAL]:10,} {slipped:16,}"


# ---- the files, and what loading them must give ---------------------------------------------------------------


def write_files(folder: Path) -> dict[str, Callable[[], str]]:
    """Write a `.pth` and a resume folder; returns, for each file that gets damaged, who judges what is loaded."""
    checkpoint, resume = folder / "model.pth", folder / "resume"
    save_checkpoint(checkpoint, make_checkpoint())
    saved = {number: make_step(number) for number in (OLDER, NEWER)}
    for step in saved.values():
        write_step(resume, step, keep_last=2)
    whole = load_checkpoint(checkpoint)

    def judge_checkpoint() -> str:
        return checkpoint_outcome(checkpoint, whole)

    def judge_resume() -> str:
        return resume_outcome(resume, saved)

    newest = f"{resume.name}/step-{NEWER}"
    files = [f"{newest}/{name}" for name in (TENSORS, STATE, MANIFEST)] + [f"{resume.name}/{LATEST}"]
    return {checkpoint.name: judge_checkpoint, **dict.fromkeys(files, judge_resume)}


def checkpoint_outcome(path: Path, whole: Checkpoint) -> str:
    """Whether a damaged `.pth` is named, or the same as the whole one."""
    try:
        found = load_checkpoint(path)
    except UserError as error:
        return NAMED if str(error).startswith(f"{path}: ") else f"an error without the file's name: {error}"
    return IDENTICAL if same(vars(found), vars(whole)) else "other values were loaded"


def resume_outcome(folder: Path, saved: dict[int, SavedStep]) -> str:
    """Whether a damaged newest step is named both ways, or the same as the whole one."""
    newest = folder / f"step-{NEWER}"
    with contextlib.redirect_stderr(io.StringIO()) as spoken:
        found = load_newest(folder)
    if found is None or not same(_content(found), _content(saved[found.state.step])):
        return "other values were loaded"
    fell_back = found.state.step == OLDER
    if fell_back and f"warning: {newest} is damaged" not in spoken.getvalue():
        return "an older step was loaded, and nothing was said"
    try:
        alone = load_step(newest)
    except UserError as error:
        is_named = fell_back and str(newest) in str(error)
        return NAMED if is_named else f"an error without the step's name, or not both ways: {error}"
    return IDENTICAL if not fell_back and same(_content(alone), _content(saved[NEWER])) else "other values were loaded"


def _content(step: SavedStep) -> dict[str, Any]:
    return {name: value for name, value in vars(step).items() if name != "path"}


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, tensors to the bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        described = [(each.dtype, each.shape) for each in (first, second)]
        return described[0] == described[1] and torch.equal(_bytes(first), _bytes(second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    return type(first) is type(second) and first == second


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def make_model(seed: int) -> CausalLM:
    """A small model with random weights."""
    torch.manual_seed(seed)
    return CausalLM(LMConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=340, max_seq_len=64))


def make_checkpoint() -> Checkpoint:
    """What a stage leaves, but for the tokenizer's size."""
    model = make_model(0)
    return Checkpoint(
        stage="pretrain",
        config=model.config,
        weights=weights_of(model, copy=True),
        tokenizer_files={"tokenizer.json": '{"小苗": 1}' * 50, "chat_template.jinja": "{{ 한국어 }}" * 50},
        generation={"stop_token_ids": [0, 3], "temperature": 0.7},
        step=NEWER,
        tokens=123_456,
        metrics={"validation_loss_last": 2.5},
        lineage={"run": "pretrain_32", "parent": None, "data": {"name": "poems"}},
    )


def make_step(number: int) -> SavedStep:
    """A step as a run with AdamW saves it."""
    model = make_model(number)
    weights = weights_of(model, copy=True)
    moments = {
        name: {"step": torch.tensor(float(number)), "exp_avg": torch.randn_like(each), "exp_avg_sq": each.square()}
        for name, each in weights.items()
    }
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    state = TrainState(
        step=number,
        tokens=number * 1000,
        seconds=number * 1.5,
        total_steps=100,
        validation_losses={"before": 5.8, "last": 4.1, "best": 4.0},
        best_step=OLDER,
        skipped_windows=[[3, 5], [11, 12]],
        stability={"losses": [4.5, 4.25, 4.125]},
    )
    identity = {"stage": "pretrain", "data_path": "0123456789abcdef" * 4, "seed": 1337, "learning_rate": 1e-3}
    surroundings = {"threads": 4, "world_size": 1, "torch": str(torch.__version__), "learning_rate": 1e-3}
    tensors = {"weights": weights, "optimizer": moments, "scaler": scaler}
    return SavedStep(state, identity, model.config, "pretrain", {"stop_token_ids": [2]}, surroundings, tensors)


if __name__ == "__main__":
    run_script(main)

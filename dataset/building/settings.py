"""One build: what is asked for, what decides its result, and whether that result is there already."""

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dataset.cleaning import CleaningRules
from dataset.decontamination import CHARACTERS, WORDS, describe
from dataset.dedup import NearDuplicateSettings
from dataset.packing import FORMAT_VERSION, PackedSet
from dataset.reading.formats import PACKED_SUFFIXES
from dataset.recipes import Recipe
from dataset.sources import Input
from model.errors import UserError
from model.files import canonical_json, read_json, sha256_of_text
from model.tokenizer import ChatTokenizer

ENCODING_VERSION = 2  # raise it when the same input would now be encoded otherwise, or shards are read otherwise


_LONGEST_ROW = 1 << 24


@dataclass(frozen=True)
class BuildSettings:
    """One packed set to build (and its validation set)."""

    kind: str  # pretrain, sft or dpo
    name: str
    data_path: tuple[str, ...]
    tokenizer: ChatTokenizer
    packed_dir: Path
    max_seq_len: int = 512
    val_share: float = 0.0
    text_key: str = "text"
    rules: CleaningRules = field(default_factory=CleaningRules)
    recipe: Recipe | None = None
    near: NearDuplicateSettings | None = None
    decontaminate: tuple[str, ...] = ()  # held-out files
    decontaminate_words: int = WORDS
    decontaminate_characters: int = CHARACTERS
    num_workers: int = -1  # -1: one a core, none for a small input
    memory_gb: float = 4.0
    overwrite: bool = False
    max_reject_share: float = 0.05
    rejects: Path | None = None  # where to put a copy of rejects.jsonl
    brief: bool = False  # print a line a set instead of the report

    def check(self) -> None:
        """UserError for values that cannot work."""
        if not 8 <= self.max_seq_len <= _LONGEST_ROW:
            raise UserError(f"--max_seq_len {self.max_seq_len}: expected a number from 8 to {_LONGEST_ROW:,}")
        if not 0 < self.memory_gb < 1e6:
            raise UserError(f"--memory_gb {self.memory_gb}: expected a number of GiB, for example 4")
        if self.num_workers < -1:
            raise UserError(
                f"--num_workers {self.num_workers}: expected a number of processes, 0 for none, -1 for one a core"
            )
        if self.kind != "pretrain" and self.text_key != "text":
            raise UserError(
                f"--text_key {self.text_key}: names the field of pretraining text; {self.kind} does not read it"
            )
        for flag, share in (("val_share", self.val_share), ("max_reject_share", self.max_reject_share)):
            if not 0 <= share <= 1:
                raise UserError(f"--{flag} {share}: expected a share between 0 and 1")
        if self.packed_dir.exists() and not self.packed_dir.is_dir():
            raise UserError(f"--packed_dir {self.packed_dir}: this is a file, expected a folder")
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise UserError(f"--name {self.name!r}: expected a plain name, the folder's name in {self.packed_dir}")
        if self.kind != "pretrain" and self.tokenizer.chat_template is None:
            raise UserError("--tokenizer: it has no chat template, which conversations need")
        if self.kind == "pretrain" and self.tokenizer.eos_token_id is None:
            raise UserError("--tokenizer: it names no eos_token, which closes a document")
        if self.near is not None and self.rules.keep_duplicates:
            raise UserError("--near_dedup and --keep_duplicates: choose one; what is equal is more than nearly equal")
        for rule in ("min_question_chars", "max_question_chars", "min_answer_chars", "max_answer_chars"):
            if self.kind == "pretrain" and getattr(self.rules, rule):
                raise UserError(f"--{rule}: text has no questions and answers; use --min_chars and --max_chars")
        if self.rejects is not None:
            _check_rejects_path(self.rejects)
        self.rules.thresholds()

    @property
    def set_names(self) -> list[str]:
        """The set, and its validation set if there is to be one."""
        return [self.name, f"{self.name}_val"] if self.val_share else [self.name]

    @property
    def rejects_of_failure(self) -> Path:
        """Where the rejects are listed if there are too many of them, and no other place is asked for."""
        return self.packed_dir / f"{self.name}.rejects.jsonl"


def _check_rejects_path(path: Path) -> None:
    """UserError unless a list of rejects may be put there: nothing that somebody else wrote is replaced."""
    if not path.exists() and path.parent.is_dir():
        return
    if path.is_dir():
        raise UserError(f"--rejects {path}: this is a folder, expected a file")
    if not path.parent.is_dir():
        raise UserError(f"--rejects {path}: there is no folder {path.parent}")
    if not path.is_file():
        raise UserError(f"--rejects {path}: this is no ordinary file; choose another path")
    if (path.parent / "meta.json").exists():
        raise UserError(f"--rejects {path}: lies in a packed set, which has its own rejects.jsonl; choose another path")
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    try:
        is_ours = not first or {"path", "line", "reason"} <= json.loads(first).keys()
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise UserError(f"--rejects {path}: exists and is no list of rejects; choose another path")


def describe_build(settings: BuildSettings, inputs: list[Input]) -> dict[str, Any]:
    """Everything that decides what is in a set; two builds with equal descriptions are the same set."""
    build: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "encoding_version": ENCODING_VERSION,
        "kind": settings.kind,
        "max_seq_len": settings.max_seq_len,
        "val_share": settings.val_share,
        "vocabulary": settings.tokenizer.vocabulary_hash,
        "rules": settings.rules.as_dict(),
        "recipe": None if settings.recipe is None else settings.recipe.name,
        "near_dedup": None if settings.near is None else settings.near.as_dict(),
        "decontaminate": None,
        "input": [[each.label, each.fingerprint()] for each in inputs],
    }
    if settings.decontaminate:
        lengths = (settings.decontaminate_words, settings.decontaminate_characters)
        build["decontaminate"] = describe(settings.decontaminate, *lengths)
    if settings.kind == "pretrain":
        build["text_key"] = settings.text_key
    else:
        build["chat_template"] = settings.tokenizer.template_hash
    return {**build, "hash": sha256_of_text(canonical_json(build))}


def already_built(settings: BuildSettings, build: dict[str, Any]) -> bool:
    """Whether these sets are there, made the same way; UserError when others are in their place."""
    folders = [settings.packed_dir / name for name in settings.set_names]
    same = []
    for folder in folders:
        if not folder.exists():
            continue
        if not (folder / "meta.json").is_file():
            # --overwrite replaces a packed set, never a folder of somebody's other files.
            raise UserError(f"{folder}: exists and is no packed set; choose another --name or --packed_dir")
        old = read_json(folder / "meta.json").get("build") or {}
        if old.get("hash") == build["hash"]:
            same.append(folder)
        elif not settings.overwrite:
            differs = [key for key in build if key != "hash" and old.get(key) != build[key]]
            raise UserError(
                f"{folder}: exists, made with other settings ({', '.join(differs)}); "
                f"pass --overwrite to replace it, or another --name"
            )
    stale = settings.packed_dir / f"{settings.name}_val"
    if not settings.val_share and stale.exists():
        raise UserError(
            f"{stale}: belongs to another build of {settings.name} and may hold the same documents; "
            f"remove it, or pass --val_share"
        )
    if same == folders:
        try:
            for folder in folders:
                PackedSet.open(folder)  # names a file that is missing or cut
        except UserError:
            if settings.overwrite:
                return False
            raise
        return True
    return False


def default_name(given: str) -> str:
    """The name of a set after the first thing that goes into it: a file, folder, pattern, address or hub set."""
    place, _, rest = given.partition(":")
    if place in ("hf", "ms"):
        parts = rest.partition(":")[0].strip("/").split("/")
        return (parts[1] if len(parts) > 1 and not rest.startswith("/") else parts[-1]).split("@")[0]
    path = PurePosixPath(urlsplit(given).path if "://" in given else given)
    while any(letter in path.name for letter in "*?["):
        path = path.parent
    if path.suffix.lower() in PACKED_SUFFIXES or path.suffix.lower() == ".zip":
        path = path.with_suffix("")
    return path.stem if path.name else Path.cwd().name

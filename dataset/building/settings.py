"""One build: what is asked for, what decides its result, and whether that result is there already."""

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
        if self.max_seq_len < 8:
            raise UserError(f"--max_seq_len {self.max_seq_len}: expected at least 8")
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
        if self.rejects is not None and self.rejects.is_dir():
            raise UserError(f"--rejects {self.rejects}: this is a folder, expected a file")
        self.rules.thresholds()

    @property
    def set_names(self) -> list[str]:
        """The set, and its validation set if there is to be one."""
        return [self.name, f"{self.name}_val"] if self.val_share else [self.name]


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
                PackedSet.open(folder)  # names what was cut or altered since
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

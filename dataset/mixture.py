"""What a mixture is: packed sets that are read together, each by its share, without packing anything again.

In short form, on the command line. Weights are shares of the trained tokens, and need not add up to one:

    python 1-pretrain.py --data_path wiki:0.7,poems:0.3

or in a YAML file, `--data_path mixture.yaml`:

    seed: 7                    # optional: decides order and samples; left out, the run's --seed does
    sets:
      - path: wiki             # a folder, or a name in --packed_dir
        weight: 0.7            # a share of what the weighted sets train together
      - path: poems
        weight: 0.3
      - path: identity
        cap: 5000              # a random sample of so many rows, the same one in every epoch
      - path: news
        tokens: 20_000_000     # so many trained tokens in every epoch, to within a row

or as a curriculum: phases that follow each other, which decide the length of the run (--epochs does not apply).
A phase with weights says how long it is, in `tokens` or in `steps`; one of caps and tokens alone ends with them.

    phases:
      - name: broad
        tokens: 200_000_000
        sets:
          - {path: wiki, weight: 0.8}
          - {path: news, weight: 0.2}
      - name: polish
        steps: 500
        sets:
          - {path: poems, weight: 1}
          - {path: identity, cap: 5000}

What the words mean:

* **tokens** are targets, the tokens that the loss counts (`tokens` in metrics.jsonl). In fine-tuning that leaves
  out what the user says.
* **weight**: outside phases, one epoch trains as many tokens as the weighted sets hold together. A set with more
  than its natural share therefore repeats, one with less is read in part. In a phase the weighted sets share what
  caps and budgets leave of the phase's tokens or steps.
* **order**: every row of a set is used once before any is used again, across epochs and phases too: the next epoch
  goes on where the last one stopped. A capped set is its sample, and keeps its own count.
* The sets' rows are shuffled among each other within an epoch or phase; the last step of each may be shorter.

`dataset/mixed_set.py` opens the sets of a mixture as one; `dataset/mixed_order.py` says which rows step k trains on.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.errors import UserError

_AMOUNTS = ("weight", "cap", "tokens")  # a set of a mixture has exactly one of them
# The end of one entry of the short form. Not only numbers that are right: a wrong one is to be named.
_WEIGHT = re.compile(r":\s*([+-]?(?:[0-9][0-9.]*(?:e[+-]?[0-9]+)?|\.[0-9]+|nan|inf))\s*(?:,|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A set of a mixture, and how much of it is trained."""

    name: str  # as the user wrote it
    path: Path
    weight: float | None = None
    cap: int | None = None
    tokens: int | None = None

    @property
    def amount(self) -> str:
        """In words, for tables."""
        if self.weight is not None:
            return f"weight {self.weight:g}"
        return f"cap {self.cap:,}" if self.cap is not None else f"{self.tokens:,} tokens"


@dataclass(frozen=True)
class Phase:
    """Sets that are read among each other: a stage of a curriculum, or what every epoch repeats."""

    name: str
    parts: tuple[Part, ...]
    tokens: int | None = None
    steps: int | None = None

    @property
    def length(self) -> str:
        """In words, for tables."""
        if self.steps is not None:
            return f"{self.steps:,} steps"
        return f"{self.tokens:,} tokens" if self.tokens is not None else ""


@dataclass(frozen=True)
class Mixture:
    """Phases one after another; or a single one that every epoch repeats."""

    name: str  # for messages: the file, or the short form without folders
    phases: tuple[Phase, ...]
    repeats: bool  # epochs of phases[0]
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What decides the order of the data, as plain values; the sets are those of `folders`, by number."""
        numbers = {path.resolve(): number for number, path in enumerate(self.folders())}
        phases = [
            {
                "tokens": phase.tokens,
                "steps": phase.steps,
                "sets": [
                    {"set": numbers[part.path.resolve()], **{amount: getattr(part, amount) for amount in _AMOUNTS}}
                    for part in phase.parts
                ],
            }
            for phase in self.phases
        ]
        return {"repeats": self.repeats, "seed": self.seed, "phases": phases}

    def folders(self) -> list[Path]:
        """The folders of all sets, each once, in the order of their first use."""
        found: dict[Path, Path] = {}
        for phase in self.phases:
            for part in phase.parts:
                found.setdefault(part.path.resolve(), part.path)
        return list(found.values())


def find_set(name: str, packed_dir: str | Path) -> Path:
    """The folder that a set's name means: a path, or else a name in packed_dir where there is one.

    A folder that is no packed set (of raw text, say) does not stand before a set of its name.
    """
    path, inside = Path(name), Path(packed_dir) / name
    stands_first = _exists(path / "meta.json") or (_exists(path) and not path.is_dir())
    return inside if not stands_first and _exists(inside) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is too long for a file's name, or holds a NUL, is none
        return False


def read_data_path(value: str, packed_dir: str | Path) -> Path | Mixture:
    """What `--data_path` asks for: the folder of one packed set, or a mixture of several.

    Raises:
        UserError: a mixture file that is not there or says something that cannot be, or a bad weight.
    """
    path = find_set(value, packed_dir)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    if _exists(path):  # whatever colons and commas its name holds
        return _read_file(path, packed_dir) if is_yaml and path.is_file() else path
    if _WEIGHT.search(value):
        return _read_short_form(value, packed_dir)
    if is_yaml:
        raise UserError(f"--data_path {value}: no such mixture file")
    names = [name.strip() for name in value.split(",")]
    if len(names) > 1 and all(_exists(find_set(name, packed_dir)) for name in names):
        weighted = ",".join(f"{name}:1" for name in names)
        raise UserError(f"--data_path {value}: each set of a mixture needs a weight, as in {weighted}")
    return path


def _read_short_form(value: str, packed_dir: str | Path) -> Mixture:
    parts: list[Part] = []
    start = 0
    while start < len(value):
        ends = list(_WEIGHT.finditer(value, start))
        if not ends:
            found = value[start:].strip()
            raise UserError(f"--data_path {value}: found {found!r} without a weight, expected <set>:<weight>,…")
        # A name may itself look like "a:1,b": of all ways to cut, the longest that is a set wins.
        names = [value[start : end.start()].strip() for end in ends]
        there = [number for number, name in enumerate(names) if name and _exists(find_set(name, packed_dir))]
        number = there[-1] if there else 0
        name, weight = names[number], ends[number][1]
        path = find_set(name, packed_dir)
        if not there:
            raise UserError(
                f"--data_path {value}: no packed set {name!r}, neither as a path nor in {packed_dir}; "
                "a mixture is written <set>:<weight>,<set>:<weight>"
            )
        parts.append(Part(name, path, weight=_positive(f"--data_path {value}: the weight of {name}", weight)))
        start = ends[number].end()
    _refuse_twice(f"--data_path {value}", parts)
    short = ",".join(f"{part.path.absolute().name}:{part.weight:g}" for part in parts)
    return Mixture(short, (Phase("", tuple(parts)),), repeats=True)


# ---- the file -------------------------------------------------------------------------------------------------


def _read_file(path: Path, packed_dir: str | Path) -> Mixture:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    values = _mapping(str(path), content, {"seed", "sets", "phases"})
    seed = values.get("seed")
    if seed is not None:
        seed = _whole(f"{path}: seed", seed, least=0)
    if ("sets" in values) == ("phases" in values):
        found = "both" if "sets" in values else "neither"
        raise UserError(f"{path}: found {found} of sets and phases, expected one of them")
    if "sets" in values:
        return Mixture(str(path), (Phase("", _parts(str(path), values["sets"], packed_dir)),), True, seed)
    phases = [_phase(path, number, each, packed_dir) for number, each in _numbered(f"{path}: phases", values["phases"])]
    names = [phase.name for phase in phases]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: has two phases named {name!r}; give each its own name")
    return Mixture(str(path), tuple(phases), False, seed)


def _phase(path: Path, number: int, content: Any, packed_dir: str | Path) -> Phase:
    where = f"{path}: phase {number}"
    values = _mapping(where, content, {"name", "tokens", "steps", "sets"})
    name = values.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: name: found {name!r}, expected a name")
    where = f"{path}: phase {name}"
    parts = _parts(where, values.get("sets"), packed_dir)
    lengths = {key: _whole(f"{where}: {key}", values[key], least=1) for key in ("tokens", "steps") if key in values}
    has_weights = any(part.weight is not None for part in parts)
    if has_weights and len(lengths) != 1:
        found = "both" if lengths else "neither"
        raise UserError(f"{where}: found {found} of tokens and steps, expected one: it says what the weights share")
    if lengths and not has_weights:
        raise UserError(f"{where}: its sets' caps and tokens decide its length; leave {next(iter(lengths))} out")
    return Phase(name, parts, **lengths)


def _parts(where: str, content: Any, packed_dir: str | Path) -> tuple[Part, ...]:
    parts = [_part(f"{where}: set {number}", each, packed_dir) for number, each in _numbered(f"{where}: sets", content)]
    _refuse_twice(where, parts)
    return tuple(parts)


def _part(where: str, content: Any, packed_dir: str | Path) -> Part:
    values = _mapping(where, content, {"path", *_AMOUNTS})
    name = values.get("path")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: path: found {name!r}, expected a packed set's folder, or its name in {packed_dir}")
    where += f" ({name})"
    given = [key for key in _AMOUNTS if key in values]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"{where}: found {found} of {', '.join(_AMOUNTS)}, expected exactly one")
    path = find_set(name, packed_dir)
    if "weight" in values:
        return Part(name, path, weight=_positive(f"{where}: weight", values["weight"]))
    return Part(name, path, **{given[0]: _whole(f"{where}: {given[0]}", values[given[0]], least=1)})


def _mapping(where: str, content: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{where}: found {_short(content)}, expected {', '.join(sorted(known))} by name")
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown {key!r}, expected {', '.join(sorted(known))}")
    return content


def _numbered(where: str, content: Any) -> list[tuple[int, Any]]:
    if not isinstance(content, list) or not content:
        raise UserError(f"{where}: found {_short(content)}, expected a list")
    return list(enumerate(content, start=1))


def _refuse_twice(where: str, parts: list[Part]) -> None:
    seen: dict[Path, str] = {}
    for part in parts:
        folder = part.path.resolve()
        if folder in seen:
            also = "" if part.name == seen[folder] else f" (as {seen[folder]} too)"
            raise UserError(f"{where}: {part.name} is named twice{also}; name each set once")
        seen[folder] = part.name


def _positive(where: str, value: Any) -> float:
    try:
        # YAML 1.1 takes 1e-3 for text; True would count as 1.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{where}: found {_short(value)}, expected a number above 0")
    return number


def _whole(where: str, value: Any, least: int) -> int:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (least <= number < 2**53 and number == int(number)):
        raise UserError(f"{where}: found {_short(value)}, expected a whole number of at least {least}")
    return int(number)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Describing a mixture: the short form, the file, names that look like one, and what cannot be."""

from pathlib import Path

import pytest

from dataset.mixture import Mixture, Phase, read_data_path
from model.errors import UserError


@pytest.fixture
def packed_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders `a`, `b` and `c` in packed_dir; only `a` also lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("packed/a", "packed/b", "packed/c", "a"):
        Path(name).mkdir(parents=True)
        Path(name, "meta.json").touch()
    return Path("packed")


def parts_of(found: Path | Mixture) -> list[tuple[str, float | None]]:
    assert isinstance(found, Mixture)
    return [(str(part.path), part.weight) for part in found.phases[0].parts]


def test_the_short_form_finds_sets_by_path_and_by_name(packed_dir: Path) -> None:
    found = read_data_path("a:0.7, b:.3,packed/c:1e-1", packed_dir)
    assert parts_of(found) == [("a", 0.7), ("packed/b", 0.3), ("packed/c", 0.1)]
    assert isinstance(found, Mixture) and found.repeats and found.seed is None
    assert Path(found.name).name == found.name == "a:0.7,b:0.3,c:0.1", "it also serves as the name of a folder"


def test_a_single_set_is_no_mixture(packed_dir: Path) -> None:
    assert read_data_path("a", packed_dir) == Path("a")
    assert read_data_path("b", packed_dir) == Path("packed/b")
    assert read_data_path("none", packed_dir) == Path("none"), "opening it says what to do"
    assert parts_of(read_data_path("b:2", packed_dir)) == [("packed/b", 2.0)]


def test_a_folder_of_raw_text_does_not_hide_the_set_of_its_name(packed_dir: Path) -> None:
    Path("b").mkdir()
    assert read_data_path("b", packed_dir) == Path("packed/b")
    assert parts_of(read_data_path("b:1,a:1", packed_dir)) == [("packed/b", 1.0), ("a", 1.0)]
    Path("b", "meta.json").touch()
    assert read_data_path("b", packed_dir) == Path("b")


def test_many_sets_are_more_than_a_file_name_can_hold(packed_dir: Path) -> None:
    for number in range(30):
        (packed_dir / f"set_number_{number:02}").mkdir()
    value = ",".join(f"set_number_{number:02}:0.5" for number in range(30))
    assert len(parts_of(read_data_path(value, packed_dir))) == 30
    with pytest.raises(UserError, match="no packed set"):
        read_data_path(f"{'x' * 300}:1", packed_dir)


@pytest.mark.parametrize("name", ["a:0.7,b:0.3", "b:1", "x,y", "12:30", "mix.yaml"])
def test_a_folder_that_exists_as_given_wins(packed_dir: Path, name: str) -> None:
    Path(name).mkdir()
    assert read_data_path(name, packed_dir) == Path(name)


def test_names_with_colons_and_commas_within_a_mixture(packed_dir: Path) -> None:
    for name in ("x,y", "packed/at 12:30", "a:1,b"):
        Path(name).mkdir()
    assert parts_of(read_data_path("x,y:0.5,at 12:30:2", packed_dir)) == [("x,y", 0.5), ("packed/at 12:30", 2.0)]
    assert parts_of(read_data_path("a:1,b:3,c:4", packed_dir)) == [("a:1,b", 3.0), ("packed/c", 4.0)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a:0.7,none:0.3", "no packed set 'none', neither as a path nor in packed"),
        ("a:0.7,b", "found 'b' without a weight"),
        ("a:0.7,b:", "found 'b:' without a weight"),
        ("a:much,b:0.3", "no packed set 'a:much,b'"),
        ("a,b", "each set of a mixture needs a weight, as in a:1,b:1"),
        ("a:0,b:1", "the weight of a: found '0', expected a number above 0"),
        ("a:-1,b:1", "the weight of a: found '-1'"),
        ("a:nan", "the weight of a: found 'nan'"),
        ("a:inf", "the weight of a: found 'inf'"),
        ("a:1.2.3", "the weight of a: found '1.2.3'"),
        ("a:1e999", "the weight of a: found '1e999'"),
        ("b:0.5,packed/b:0.5", "packed/b is named twice (as b too)"),
        (":1", "no packed set ''"),
        ("none.yaml", "none.yaml: no such mixture file"),
    ],
)
def test_mistakes_in_the_short_form(packed_dir: Path, value: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        read_data_path(value, packed_dir)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("--data_path ")


# ---- the file ----


def read_file(text: str, packed_dir: Path) -> Mixture:
    Path("mix.yaml").write_text(text, encoding="utf-8")
    found = read_data_path("mix.yaml", packed_dir)
    assert isinstance(found, Mixture)
    return found


def test_a_file_of_sets(packed_dir: Path) -> None:
    text = "seed: 7\nsets:\n- {path: a, weight: 2}\n- {path: b, cap: 5_000}\n- {path: ./packed/c, tokens: 2e3}\n"
    found = read_file(text, packed_dir)
    assert (found.seed, found.repeats, found.name) == (7, True, "mix.yaml")
    parts = [(str(part.path), part.weight, part.cap, part.tokens) for part in found.phases[0].parts]
    assert parts == [("a", 2.0, None, None), ("packed/b", None, 5000, None), ("packed/c", None, None, 2000)]
    assert [part.amount for part in found.phases[0].parts] == ["weight 2", "cap 5,000", "2,000 tokens"]


def test_a_file_of_phases(packed_dir: Path) -> None:
    text = """
    phases:
      - {name: broad, tokens: 1000, sets: [{path: a, weight: 1}, {path: b, cap: 3}]}
      - {name: 第二, steps: 5, sets: [{path: packed/b, weight: 0.5}]}
      - {name: last, sets: [{path: c, tokens: 10}]}
    """
    found = read_file(text, packed_dir)
    assert not found.repeats
    lengths = [(phase.name, phase.tokens, phase.steps) for phase in found.phases]
    assert lengths == [("broad", 1000, None), ("第二", None, 5), ("last", None, None)]
    assert found.folders() == [Path("a"), Path("packed/b"), Path("packed/c")]
    assert found.to_dict()["phases"][1]["sets"] == [{"set": 1, "weight": 0.5, "cap": None, "tokens": None}]


def test_the_example_of_the_docstring_is_right(packed_dir: Path) -> None:
    import dataset.mixture

    assert dataset.mixture.__doc__
    blocks = dataset.mixture.__doc__.split("YAML file, `--data_path mixture.yaml`:")[1]
    sets, phases = blocks.split("or as a curriculum:")
    phases = phases[phases.index("    phases:") : phases.index("What the words mean")]
    assert [part.name for part in read_file(sets, packed_dir).phases[0].parts] == ["wiki", "poems", "identity", "news"]
    assert [phase.name for phase in read_file(phases, packed_dir).phases] == ["broad", "polish"]


SETS = "sets: [{path: a, weight: 1}]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mix.yaml: found None, expected phases, seed, sets by name"),
        ("[1]", "mix.yaml: found [1], expected"),
        ("sets: [", "mix.yaml: not a YAML file"),
        ("sets: !!python/object/apply:os.system [ls]", "mix.yaml: not a YAML file"),
        ("[" * 3000, "mix.yaml: not a YAML file"),
        ("seed: 1", "found neither of sets and phases"),
        (f"{SETS}\nphases: []", "found both of sets and phases"),
        (f"{SETS}\nshuffle: true", "mix.yaml: unknown 'shuffle'"),
        (f"{SETS}\nseed: -1", "seed: found -1"),
        (f"{SETS}\nseed: true", "seed: found True"),
        ("sets: {a: 1}", "sets: found {'a': 1}, expected a list"),
        ("sets: []", "sets: found [], expected a list"),
        ("sets: [a]", "set 1: found 'a', expected"),
        ("sets: [{weight: 1}]", "set 1: path: found None"),
        ("sets: [{path: 3, weight: 1}]", "set 1: path: found 3"),
        ("sets: [{path: a}]", "set 1 (a): found none of weight, cap, tokens"),
        ("sets: [{path: a, weight: 1, cap: 2}]", "set 1 (a): found weight and cap of"),
        ("sets: [{path: a, wieght: 1}]", "set 1: unknown 'wieght'"),
        ("sets: [{path: a, weight: lots}]", "set 1 (a): weight: found 'lots'"),
        ("sets: [{path: a, weight: true}]", "set 1 (a): weight: found True"),
        ("sets: [{path: a, weight: [1]}]", "set 1 (a): weight: found [1]"),
        (f"sets: [{{path: a, weight: 1{'0' * 400}}}]", "set 1 (a): weight: found 1000"),
        ("sets: [{path: a, cap: 0}]", "set 1 (a): cap: found 0, expected a whole number of at least 1"),
        ("sets: [{path: a, cap: 1.5}]", "set 1 (a): cap: found 1.5"),
        ("sets: [{path: a, tokens: -3}]", "set 1 (a): tokens: found -3"),
        ("sets: [{path: a, tokens: .inf}]", "set 1 (a): tokens: found inf"),
        ("sets: [{path: b, weight: 1}, {path: packed/b, cap: 2}]", "packed/b is named twice (as b too)"),
        (f"phases: [{{tokens: 5, {SETS}}}]", "phase 1: name: found None"),
        (f"phases: [{{name: x, {SETS}}}]", "phase x: found neither of tokens and steps"),
        (f"phases: [{{name: x, tokens: 1, steps: 1, {SETS}}}]", "phase x: found both of tokens and steps"),
        ("phases: [{name: x, steps: 3, sets: [{path: a, cap: 2}]}]", "decide its length; leave steps out"),
        (f"phases: [{{name: x, steps: 0, {SETS}}}]", "phase x: steps: found 0"),
        ("phases: [{name: x, steps: 1}]", "phase x: sets: found None"),
        (f"phases: [{{name: x, steps: 1, {SETS}}}, {{name: x, steps: 1, {SETS}}}]", "two phases named 'x'"),
    ],
)
def test_mistakes_in_the_file(packed_dir: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        read_file(text, packed_dir)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("mix.yaml: ")


def test_a_file_that_is_not_text(packed_dir: Path) -> None:
    Path("mix.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"mix\.yml: not a YAML file"):
        read_data_path("mix.yml", packed_dir)


def test_a_phase_says_its_length() -> None:
    lengths = [Phase("x", (), tokens=1000).length, Phase("x", (), steps=1000).length, Phase("x", ()).length]
    assert lengths == ["1,000 tokens", "1,000 steps", ""]

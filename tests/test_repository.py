"""Facts about the repository as a whole: its layout, its requirements, what no file of it may do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["model", "dataset", "trainer", "inference", "evaluation"]
SCRIPTS = sorted(ROOT.glob("*.py"))
ROOM_FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
ALL_FILES = [*SCRIPTS, *ROOM_FILES, *TEST_FILES, *sorted((ROOT / "benchmarks").rglob("*.py"))]

# What the data workers and `--help` load: the modules that must not bring torch with them.
WITHOUT_TORCH = [
    "model.errors",
    "model.files",
    "model.config",
    "model.tokenizer",
    "model.chat",
    "trainer.settings",
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def requirements_in(*names: str) -> list[Requirement]:
    lines = (line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def pinned_versions() -> dict[str, str]:
    pins: dict[str, str] = {}
    for requirement in requirements_in("constraints.txt"):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"constraints.txt: {requirement} is not an exact version"
        pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


# --- layout -------------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_450_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_FILES}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_file_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [name_of(path) for path in ALL_FILES if path.stem in vague] == []


def test_package_inits_import_nothing() -> None:
    for path in ROOM_FILES:
        if path.name == "__init__.py":
            body = parsed(path).body
            assert len(body) == 1, f"{name_of(path)} holds more than its docstring"
            assert ast.get_docstring(parsed(path)), f"{name_of(path)} has no docstring"


def test_every_folder_of_a_room_is_a_package() -> None:
    assert [name_of(path) for path in ROOM_FILES if not (path.parent / "__init__.py").exists()] == []


def test_light_modules_do_not_load_torch() -> None:
    """The import contracts see our own imports; this sees what the libraries load behind them."""
    dataset_modules = [".".join(Path(name_of(path)).with_suffix("").parts) for path in ROOM_FILES]
    names = WITHOUT_TORCH + [name for name in dataset_modules if name.split(".")[0] == "dataset"]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    finished = run_python("-c", code)
    assert finished.returncode == 0, finished.stderr


# --- scripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_script_docstring_shows_how_to_launch_it(script: Path) -> None:
    docstring = ast.get_docstring(parsed(script)) or ""
    launchers = (f"python {script.name}", f"streamlit run {script.name}")
    assert any(launcher in docstring for launcher in launchers), f"{script.name}: no launch line in its docstring"


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_help_answers_without_loading_torch(script: Path) -> None:
    """Loading torch takes seconds, so `--help` that does without it answers at once, on any machine."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script.name!r}, '--help']\n"
        "sys.path.insert(0, '.')\n"
        "try:\n"
        f"    runpy.run_path({script.name!r}, run_name='__main__')\n"
        "except SystemExit as leaving:\n"
        "    assert not leaving.code, leaving.code\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    finished = run_python("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert f"python {script.name}" in finished.stdout, "--help does not show the launch lines"


# --- requirements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-engines.txt"])
def test_requirements_are_ranges(name: str) -> None:
    for requirement in requirements_in(name):
        operators = sorted(specifier.operator for specifier in requirement.specifier)
        assert operators == ["<", ">="], f"{name}: {requirement} needs a lower and an upper bound"


def test_requirements_name_what_the_project_is_built_on() -> None:
    requirements = {requirement.name: requirement for requirement in requirements_in("requirements.txt")}
    fixed = "torch transformers tokenizers datasets deepspeed wandb pandas streamlit fastapi uvicorn"
    assert set(fixed.split()) <= set(requirements)
    assert requirements["torch"].specifier == Requirement("torch>=2.11,<2.14").specifier
    deepspeed = requirements["deepspeed"].marker
    assert deepspeed is not None and deepspeed.evaluate({"sys_platform": "linux"})
    assert not deepspeed.evaluate({"sys_platform": "darwin"})


def test_constraints_pin_torch_for_every_platform() -> None:
    pins = pinned_versions()
    assert pins["torch"] == "2.13.0"
    assert [name for name, version in pins.items() if "+" in version] == [], "a build of one platform only"


def test_pinned_versions_are_in_the_ranges() -> None:
    pins = pinned_versions()
    for requirement in requirements_in("requirements.txt", "requirements-dev.txt"):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"constraints.txt pins {version}, outside {requirement}"


def test_constraints_pin_everything_that_is_installed() -> None:
    """What the requirements need, and what that needs in turn: a new package without its pin shows here."""
    # torch for CUDA names the exact libraries of its build itself; the file serves machines without them too.
    from_torch = ("nvidia-", "cuda-", "triton")
    installed = set()
    waiting = requirements_in("requirements.txt", "requirements-dev.txt")
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in installed or name.startswith(from_torch):
            continue
        # Extras only add packages; those that our requirements ask for are followed by their marker.
        extras = ["", *requirement.extras]
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        installed.add(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                waiting.append(needed)
    assert installed - pinned_versions().keys() == set(), "run `make constraints`"


def imported_packages(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """(file, distribution) for each import of a library."""
    own = {*ROOMS, "tests", "benchmarks", *(script.stem for script in SCRIPTS)}
    distributions = metadata.packages_distributions()
    for path in paths:
        for node in ast.walk(parsed(path)):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                if top not in own and top not in sys.stdlib_module_names:
                    for distribution in distributions.get(top, [top]):
                        yield name_of(path), canonicalize_name(distribution)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        pytest.param([*SCRIPTS, *ROOM_FILES], ["requirements.txt"], id="scripts and rooms"),
        pytest.param(
            TEST_FILES,
            ["requirements.txt", "requirements-dev.txt", "requirements-engines.txt"],
            id="tests",
        ),
    ],
)
def test_every_imported_library_is_required(paths: list[Path], names: list[str]) -> None:
    """Not only installed because another library happens to need it."""
    required = {canonicalize_name(requirement.name) for requirement in requirements_in(*names)}
    assert [(file, package) for file, package in imported_packages(paths) if package not in required] == []


def test_only_three_files_know_of_other_processes() -> None:
    """A stage, the loop and the model read the same whether one process trains or a hundred."""
    allowed = {"trainer/parallel.py", "trainer/zero.py", "trainer/heartbeat.py"}
    found = set()
    for path in [*SCRIPTS, *ROOM_FILES]:
        for node in ast.walk(parsed(path)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            if any(re.match(r"(torch\.distributed|deepspeed)\b", name) for name in names):
                found.add(name_of(path))
    assert found == allowed


# --- what no file may do (ruff forbids eval, exec, pickle, broad excepts) -----------------------------------


def keyword_of(call: ast.Call, name: str) -> object:
    """The constant given for a keyword of a call; None when it is absent or no constant."""
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def faults_in(tree: ast.Module) -> list[str]:
    """Calls that would run code hidden in a file, or hide a mistake."""
    faults = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "torch.load" and keyword_of(node, "weights_only") is not True:
            faults.append(f"line {node.lineno}: torch.load without weights_only=True runs code from the file")
        if keyword_of(node, "allow_pickle") is True:
            faults.append(f"line {node.lineno}: allow_pickle runs code from the file")
        if keyword_of(node, "trust_remote_code") is True:
            faults.append(f"line {node.lineno}: trust_remote_code runs code from a model's folder")
        if keyword_of(node, "strict") is False:
            faults.append(f"line {node.lineno}: strict=False hides what does not fit")
    return faults


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("torch.load(path, weights_only=True)", 0),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("model.load_state_dict(weights, strict=False)", 1),
        ("zip(a, b, strict=True)", 0),
        ("AutoModel.from_pretrained(folder, trust_remote_code=True)", 1),
    ],
)
def test_the_search_for_faults_finds_them(code: str, count: int) -> None:
    assert len(faults_in(ast.parse(code))) == count


def test_no_file_runs_hidden_code_or_hides_a_mistake() -> None:
    faults = {name_of(path): faults_in(parsed(path)) for path in ALL_FILES}
    assert {name: found for name, found in faults.items() if found} == {}

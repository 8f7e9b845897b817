"""The rules of the house, checked against the source: layers, one loop, no code from files, sizes, start-up, words."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import palate

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
FILES = sorted((SRC / "palate").rglob("*.py"))
NAMES = [str(path.relative_to(SRC / "palate")) for path in FILES]

FAMILIES = ("baselines", "neighbours", "linear", "mf", "ncf", "autoencoders", "content", "sequence", "graph")

# From the bottom up; a file imports from its own layer or from one before it. The longest name that fits counts.
LAYERS = [
    {"palate"},
    {"palate.errors", "palate.extras"},
    {"palate.config", "palate.device"},
    {"palate.data.cache", "palate.data.ids", "palate.data.ragged"},
    {"palate.data.features"},
    {"palate.data"},
    {"palate.data.reading"},
    {"palate.data.sources"},
    {"palate.data.splits"},
    {"palate.training"},
    {
        "palate.models.base",
        "palate.models.buffers",
        "palate.models.choose",
        "palate.models.fallback",
        "palate.models.layers",
        "palate.models.scorer",
    },
    {f"palate.models.{family}" for family in FAMILIES},
    {"palate.models.hybrid"},
    {"palate.models"},
    {"palate.scale"},
    {"palate.ranking"},
    {"palate.evaluation"},
    {"palate.explanation"},
    {"palate.recommender"},
    {"palate.tune"},
    {"palate.automl"},
    {"palate.serving"},
    {"palate.testing"},
    {"palate.demos"},
    {"palate.cli", "palate.__main__"},
]

TEN_MINUTES = [
    "models/mf/mf.py",
    "models/base.py",
    "training/loop.py",
    "ranking/topk.py",
    "evaluation/evaluate.py",
    "recommender/recommender.py",
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def nodes(root: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run; what stands under `if TYPE_CHECKING` does not."""
    if isinstance(root, ast.If) and "TYPE_CHECKING" in ast.unparse(root.test):
        return
    yield root
    for child in ast.iter_child_nodes(root):
        yield from nodes(child)


def imports(path: Path) -> set[str]:
    """The modules of palate that a file imports, anywhere in it."""
    found = set()
    for node in nodes(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return {name for name in found if name == "palate" or name.startswith("palate.")}


def layer(name: str) -> int:
    levels = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
    parts = name.split(".")
    rooms = [".".join(parts[:end]) for end in range(len(parts), 1, -1)] or ["palate"]
    found = next((levels[room] for room in rooms if room in levels), None)
    assert found is not None, f"{name} is in no layer: add it to LAYERS and to the design"
    return found


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_go_down_only(path: Path) -> None:
    here = module(path)
    upward = {there for there in imports(path) if layer(there) > layer(here)}
    assert not upward, f"{here} imports from above itself: {upward}"


def test_no_module_reaches_itself() -> None:
    """Not even by an import within a function.

    `Dataset.read`, `load` and `split` go through palate's public names, as a user's own code would: the data set and
    what models need of it can be read, and used, without the readers, sources and splits.
    """
    graph = {name: imports(path) for name, path in MODULES.items()}
    assert not (found := circle(graph)), " -> ".join(found)


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, todo = set(), [start]
    while todo:
        new = graph.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that reach themselves."""
    return sorted(name for name in graph if name in reached(graph, name))


def test_circle_finds_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circle({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_packages_that_are_used_are_declared(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {package(line) for line in project["dependencies"]}
    extras = {package(line) for lines in project["optional-dependencies"].values() for line in lines}
    if path.is_relative_to(SRC / "palate/serving"):  # The whole layer is an extra.
        core |= {package(line) for line in project["optional-dependencies"]["serve"]}
    at_once = {name for node in tree(path).body for name in outside(node)}
    ever = {name for node in nodes(tree(path)) for name in outside(node)}
    assert at_once <= core, f"imported with the module, yet not installed by default: {at_once - core}"
    assert ever <= core | extras, f"imported, yet not in pyproject.toml: {ever - core - extras}"


def package(requirement: str) -> str:
    """The name under which a required package is imported."""
    name = re.split(r"[^\w-]", requirement)[0].lower()
    other = {
        "faiss-cpu": "faiss",
        "fbgemm-gpu-cpu": "fbgemm_gpu",
        "mlflow-skinny": "mlflow",
        "pillow": "PIL",
        "prometheus-client": "prometheus_client",
        "pyyaml": "yaml",
    }
    return other.get(name, name)


def outside(node: ast.AST) -> set[str]:
    """What a statement imports that is neither palate nor Python's own."""
    names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    return {name.split(".")[0] for name in names} - {"palate", *sys.stdlib_module_names}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """What a file calls, as written, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_one_training_loop(path: Path) -> None:
    name = str(path.relative_to(SRC / "palate"))
    here = [(call.rpartition(".")[2], line) for call, line in calls(path) if "." in call]
    if name != "training/loop.py":
        assert not [line for call, line in here if call == "backward"]
    if name not in ("training/loop.py", "training/optimizers.py"):
        assert not [line for call, line in here if call in ("step", "zero_grad")]


def test_the_training_loop_is_where_it_should_be() -> None:
    found = [call for call, _ in calls(SRC / "palate/training/loop.py") if call.endswith(".backward")]
    assert len(found) == 1


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_names_code(path: Path) -> None:
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not pickles & {alias.name.split(".")[0] for alias in node.names}, node.lineno
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in pickles, node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), node.value.lineno
            assert node.value.value is False, node.value.lineno
    banned = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}
    assert not [(call, line) for call, line in calls(path) if call in banned]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_global_seeding(path: Path) -> None:
    banned = {"np.random.seed", "numpy.random.seed", "random.seed", "torch.seed", "torch.random.manual_seed"}
    assert not [(call, line) for call, line in calls(path) if call in banned]


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    """A file's functions and methods, with their dotted names."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child
            if isinstance(child, Function | ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")

    yield from walk(tree(path), module(path) + ".")


def length(function: Function) -> int:
    """Lines of a function, its docstring apart."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        lines -= (text.end_lineno or 0) - text.lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_sizes(path: Path) -> None:
    size = len(path.read_text(encoding="utf-8").splitlines())
    assert size <= 500, f"{size} lines; 500 is the cap, and one concept a file is judged by reading"
    for name, function in functions(path):
        assert length(function) <= 50, f"{name}: {length(function)} lines of 50"
        if name.endswith(".__init__"):
            arguments = function.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs) - 1
            assert count <= 15, f"{name}: {count} arguments of 15"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            count = sum(isinstance(field, ast.AnnAssign) for field in node.body)
            name = f"{module(path)}.{node.name}"
            assert count <= 15, f"{name}: {count} fields of 15"


def test_the_ten_minute_path_takes_ten_minutes() -> None:
    sizes = {name: len((SRC / "palate" / name).read_text(encoding="utf-8").splitlines()) for name in TEN_MINUTES}
    assert sum(sizes.values()) < 1000, sizes


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_what_is_public_is_documented(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module says what it is for"
    bare = [f"{kind} {name}" for kind, name in undocumented(tree(path).body)]
    assert not bare


def undocumented(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, str]]:
    """Public classes and functions without a docstring.

    Methods of a class with bases may have theirs from there; a property of one statement speaks for itself.
    """
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            if not ast.get_docstring(node):
                yield "class", node.name
            if not node.bases:
                yield from undocumented(node.body, node.name + ".")
            continue
        property_ = any("property" in ast.unparse(d) for d in node.decorator_list) and len(node.body) == 1
        if not ast.get_docstring(node) and not property_:
            yield "function", inside + node.name


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_arguments_that_are_described_exist(path: Path) -> None:
    for name, function in functions(path):
        a = function.args
        known = {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg is not None}
        section = re.search(r"^Args:\n((?: .*\n?|\n)+)", ast.get_docstring(function) or "", re.MULTILINE)
        feature_spec = re.findall(r"^    (\w[\w, ]*):", section[1], re.MULTILINE) if section else []
        assert set(re.split(", ", ", ".join(feature_spec))) - {""} <= known, name


def run(code: str) -> tuple[str, float]:
    """Output and CPU seconds of a fresh interpreter."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, output
    return output, usage.ru_utime + usage.ru_stime


HELP = """
import sys
sys.argv = ["palate", "--help"]
from palate.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def test_help_is_quick() -> None:
    seconds = min(run(HELP)[1] for _ in range(5))
    assert seconds < 0.3


@pytest.mark.parametrize("code", [HELP, "import palate"], ids=["palate --help", "import palate"])
def test_starting_does_not_import_torch(code: str) -> None:
    output, _ = run(code + "\nimport sys; print('LOADED', *sys.modules)")
    loaded = set(output.split("LOADED")[1].split())
    assert "palate" in loaded
    assert not loaded & {"torch", "numpy", "polars", "matplotlib"}


@pytest.mark.parametrize(
    "words", [["data", "inspect", "one.csv"], ["data", "sources"], ["data", "fetch", "synthetic-100"]], ids=" ".join
)
def test_commands_that_only_read_tables_do_not_import_torch(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,item_id\n1,2\n2,3\n")
    words = [str(tmp_path / word) if word.endswith(".csv") else word for word in words]
    output, _ = run(HELP.replace('"--help"', ", ".join(map(repr, words))) + "\nprint('LOADED', *sys.modules)")
    loaded = set(output.split("LOADED")[1].split())
    assert "polars" in loaded
    assert not loaded & {"torch", "scipy"}


def test_training_does_not_import_torchs_compiler() -> None:
    """Its optimizers' classes would, and whatever is made for `torch.compile`."""
    code = """
import polars as pl
from palate import Dataset, Recommender
rows = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 2, 3]})
Recommender.train(Dataset.from_frame(rows), "multvae", None, {"epochs": 1})
"""
    output, _ = run(code + "\nimport sys; print('LOADED', *sys.modules)")
    loaded = set(output.split("LOADED")[1].split())
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "sympy"}


def test_public_names_load_when_asked_for() -> None:
    for name in palate.__all__:
        assert getattr(palate, name) is not None
    assert set(palate.__all__) <= set(dir(palate))
    with pytest.raises(AttributeError, match="no attribute 'recommend'"):
        palate.recommend  # noqa: B018


def test_annotations_are_checked_while_tests_run() -> None:
    from palate.data.ragged import Ragged

    with pytest.raises(TypeError, match="Type-check error"):
        Ragged.of(3)  # type: ignore[arg-type]


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert top is not None
    assert palate.__version__ == project["version"] == top[1]

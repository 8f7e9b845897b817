"""The documentation against the code: names, commands, examples, words."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

import palate
from palate.cli import main
from palate.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

from run_page import with_output  # noqa: E402
from tables import DICTS, on_page_markdown, table  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def entries(name: str) -> dict[str, object]:
    module = __import__(DICTS[name], fromlist=[name])
    return dict(getattr(module, name))


@pytest.mark.parametrize("name", DICTS)
def test_every_entry_of_every_dict_is_documented(name: str) -> None:
    pages = "\n".join(on_page_markdown(page.read_text(encoding="utf-8")) for page in PAGES)
    said = []
    for entry in entries(name):
        row = re.search(rf"^\| `{re.escape(entry)}` \| ([^|]+) \|", pages, re.MULTILINE)
        assert row is not None, f"no page of docs/ has a table with {entry}"
        said.append(row[1].strip())
    assert said
    assert len(set(said)) == len(said), "each entry says what sets it apart"
    assert min(map(len, said)) > 8


def test_a_table_follows_its_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_halves(data: object) -> None:
        """Half of | the rows.

        More is not shown.
        """

    monkeypatch.setattr("palate.data.splits.SPLITS", {"by-halves": by_halves})
    assert table("SPLITS") == "| name | what |\n| --- | --- |\n| `by-halves` | Half of \\| the rows. |"


def test_the_readme_lists_every_model_once() -> None:
    section = README.partition("## Models\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(entries("MODELS"))


ANSWERS = {
    "known_user": "known users",
    "history": "histories",
    "new_item": "new items",
    "new_user": "new users",
    "similar_items": "similar items",
    "rating": "ratings",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_guide_says_what_each_model_answers_and_when_to_choose_it(name: str) -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{name}` \|(.*)\|$", page, re.MULTILINE)
    assert row is not None, f"docs/models.md has no row for {name}"
    computes, learns_from, answers, choose = (cell.strip() for cell in row[1].split(" | "))
    assert min(map(len, (computes, learns_from, choose))) > 5
    assert {word for word, said in ANSWERS.items() if said in answers} == MODELS[name].answers
    assert ("rating" in MODELS[name].needs) <= ("ratings" in learns_from)
    assert ("item_features" in MODELS[name].needs) <= ("item features" in learns_from)


def test_the_guide_says_what_each_model_costs() -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    section = page.partition("## What they cost\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(MODELS)


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {
        target
        for page in [*PAGES, ROOT / ".ci/run"]
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "docs"} <= named
    assert named <= targets


def test_commands_that_are_named_exist() -> None:
    code = "import sys; sys.argv = ['palate', '--help']; from palate.cli import main; main()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
    shell = "\n".join(b for page in PAGES for b in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
    named = set(re.findall(r"^palate ([a-z]+)", shell, re.MULTILINE))
    assert {"data", "train", "evaluate", "recommend", "similar"} <= named
    for command in named:
        assert re.search(rf"^\W*{command}\b", shown, re.MULTILINE), f"palate --help does not show {command}"


def flags() -> dict[str, set[str]]:
    """Each command of `tests/cli_flags.txt` with its flags; `train *` are those of all models."""
    found: dict[str, set[str]] = {"data sources": set(), "data protocols": set()}
    found |= {f"train {name}": set() for name in MODELS}
    for line in (ROOT / "tests/cli_flags.txt").read_text(encoding="utf-8").splitlines():
        command, _, names = line.partition(": ")
        found.setdefault(command, set()).update(names.split())
    shared = found["train *"] | found["train GRADIENT"]
    return {name: names | shared if name.startswith("train ") else names for name, names in found.items()}


def test_the_page_on_the_command_line_names_every_command() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    named = {row.partition(" --")[0] for row in re.findall(r"^\| `palate ([^`]+)`", page, re.MULTILINE)}
    named = {" ".join(word for word in row.split() if word.islower()) for row in named}
    assert named == {"train" if name.startswith("train") else name for name in flags()}


def test_the_page_on_the_command_line_names_every_flag() -> None:
    """But for the settings of a model, which `palate train MODEL --help` and the reference describe."""
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    arguments = set(re.findall(r"\b[A-Z][A-Z-]+\b", "".join(re.findall(r"^\| (`palate [^`]+`)", page, re.MULTILINE))))
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w.-]*", page)) | {f"--{name.lower()}" for name in arguments}
    lines = [line.partition(": ") for line in (ROOT / "tests/cli_flags.txt").read_text(encoding="utf-8").splitlines()]
    for command, _, names in lines:
        if names.startswith("-") and (not command.startswith("train ") or command in ("train *", "train GRADIENT")):
            # `--no-header` goes with `--header`, and `--empty-user` comes with every flag that takes several values.
            assert named & {*names.split(), *(re.sub("^--(no|empty)-", "--", name) for name in names.split())}, (
                f"docs/cli.md does not name {names} of palate {command}"
            )


def shell_lines() -> Iterator[tuple[str, str]]:
    """Each `palate` command of a page's examples."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("palate "):
                    yield page.name, line


def test_flags_that_are_shown_exist() -> None:
    known = flags()
    for page, line in shell_lines():
        words = shlex.split(line, comments=True)[1:]
        command = max((name for name in known if words[: len(name.split())] == name.split()), key=len)
        shown = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert shown <= known[command], f"{page}: {line}"


def test_the_commands_of_the_readme_run_on_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    customer, article = np.divmod(rng.choice(60 * 40, 1200, replace=False), 40)
    ids = {"CustomerNo": customer + 1000, "ArticleNo": [f"A{100 + one}" for one in article]}
    days = pl.Series("Day", rng.integers(0, 365, 1200)).cast(pl.Duration("ms")) * 86_400_000
    orders = pl.DataFrame({**ids, "Stars": rng.integers(1, 6, 1200)})
    orders.with_columns(Day=(pl.lit(pl.Series([0]).cast(pl.Date)) + days)).write_csv(tmp_path / "orders.csv")
    department = [("kitchen", "garden", "music")[i % 3] for i in range(50)]
    articles = {"ArticleNo": [f"A{100 + i}" for i in range(50)], "Name": [f"Article {i}" for i in range(50)]}
    pl.DataFrame({**articles, "Department": department})[:40].write_csv(tmp_path / "articles.csv")
    new = pl.DataFrame({**articles, "Department": department})[40:].rename({"ArticleNo": "item_id"})
    new.write_csv(tmp_path / "new-articles.csv")
    customers = pl.DataFrame({"CustomerNo": range(1000, 1060), "Age": [20 + i for i in range(60)]})
    customers.write_csv(tmp_path / "customers.csv")
    customers[:1].drop("CustomerNo").write_csv(tmp_path / "visitor.csv")
    usual = {"CustomerNo": "user_id", "ArticleNo": "item_id", "Stars": "rating"}
    for year, half in ((2024, orders[:600]), (2025, orders[600:])):
        half.rename(usual).write_csv(tmp_path / f"clicks-{year}.csv")
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "palate train" in block]
    assert len(blocks) == 3
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        if line.startswith("torchrun"):  # tests/training/test_processes.py
            continue
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line, comments=True)[1:])
        assert end.value.code == (2 if "data inspect" in line else 0), line  # its columns are not named yet
    shown = capsys.readouterr().out
    assert "name it, for\n    example --user-id CustomerNo" in shown
    assert "ndcg@10" in shown
    assert "Article" in shown
    assert "10 new items, 50 in all" in shown
    assert "route popularity_within" in shown
    assert "saved 1,200 interactions of 60 users and 40 items in clicks" in shown
    assert "wrote the lists of 60 users to lists.parquet" in shown


def test_the_first_model_page_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    shown = with_output(page, tmp_path)
    assert rounded(shown) == rounded(page), "run python docs/run_page.py docs/quickstart.md"
    assert (tmp_path / "backup/ease/recommender.json").exists()


def rounded(page: str) -> list[str]:
    """The lines of a page, without decimals, which differ from one CPU to another, and without the width of columns."""
    return [re.sub(r"[\s─═]+", " ", re.sub(r"\d+\.\d+", "#", line)).strip() for line in page.splitlines()]


def test_decimals_are_the_only_difference_that_counts_for_nothing() -> None:
    assert rounded("score  0.25 of A100") == rounded("score 0.3333 of A100")
    assert rounded("score  0.25 of A100") != rounded("score 0.25 of A101")


@pytest.mark.parametrize("name", ["recommender.md"])
def test_the_examples_of_a_page_run(name: str, tmp_path: Path) -> None:
    with_output((ROOT / "docs" / name).read_text(encoding="utf-8"), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_that_is_shown_is_python(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "--8<--" not in code:
            compile(code, str(page), "exec")
        for module, names in re.findall(r"^from (palate[\w.]*) import (.*)$", code, re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), f"{page.name}: {module}.{name}"


# Phrases that users had to read twice, and words of our own where the field has one.
UNCLEAR = (
    r"somebody|people|foretell|by heart|to be found|likeliest|is told|stands? in|not by these|all that|for the former|"
    r"cannot be had|where nothing is said|takes 1 / \d|goes on where|(?:is|are) left out|what is found|no reason is"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [hit[0] for hit in re.finditer(rf"\b(?:{UNCLEAR})\b", prose, re.IGNORECASE)]
    assert not found


def reference_modules() -> list[ModuleType]:
    """The modules that the reference documents."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    return [importlib.import_module(name) for name in re.findall(r"^::: (\S+)", on_page_markdown(pages), re.MULTILINE)]


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes, functions and methods that a module defines."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield f"{module.__name__}.{name}", thing
        if inspect.isclass(thing):
            yield from methods(thing)


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods that a class defines."""
    for name, thing in vars(kind).items():
        function = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{kind.__module__}.{kind.__qualname__}.{name}", getattr(kind, name)


def test_every_name_of_the_reference_has_a_docstring() -> None:
    modules = reference_modules()
    names = {module.__name__ for module in modules}
    assert {"palate.models.ncf.ncf", "palate.data.reading.interactions", "palate.ranking.topk"} <= names
    things = [entry for module in modules for entry in public(module)]
    of_protocols = {name for _, kind in things if getattr(kind, "_is_protocol", False) for name, _ in methods(kind)}
    of_protocols = {name.rpartition(".")[2] for name in of_protocols}  # described where the protocol is
    bare = [name for name, thing in things if not inspect.getdoc(thing)]
    assert not [name for name in bare if name.rpartition(".")[2] not in of_protocols]


def named_in_the_guide() -> dict[str, Any]:
    """What the pages tell users to call: the names of `palate`, their methods, and names that examples import."""
    found = {name: getattr(palate, name) for name in palate.__all__ if callable(getattr(palate, name))}
    for page in PAGES:
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for module, names in re.findall(r"^from (palate[\w.]*) import (.*)$", code, re.MULTILINE):
                things = {name: getattr(importlib.import_module(module), name) for name in names.split(", ")}
                found |= {f"{module}.{name}": thing for name, thing in things.items() if callable(thing)}
    for kind in filter(inspect.isclass, list(found.values())):
        found |= {name: thing for name, thing in methods(kind) if not overrides(kind, name.rpartition(".")[2])}
    return found


def overrides(kind: type, method: str) -> bool:
    """Whether a method replaces one of a base class, which describes it."""
    return any(method in vars(base) for base in kind.__mro__[1:])


def test_what_users_call_describes_its_arguments() -> None:
    named = named_in_the_guide()
    assert {"read_dataset", "palate.data.dataset.Dataset.split", "palate.tune.tune"} <= set(named)
    missing = {name: undescribed(thing) for name, thing in named.items() if undescribed(thing)}
    assert not missing


def undescribed(thing: Any) -> list[str]:
    """The arguments of a function that its docstring does not describe; of a class, its attributes or arguments."""
    document = inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        return [] if document else [thing.__name__]
    section = re.search(r"^Args:\n((?: .*\n?|\n)+)", document, re.MULTILINE)
    described = re.findall(r"^    (\w[\w, ]*):", section[1], re.MULTILINE) if section else []
    known = set(re.split(", ", ", ".join(described))) | set(re.findall(r"`(\w+)`", document))
    names = [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]
    elsewhere = re.search(r"[Aa]rguments|see `", document)
    return [] if elsewhere else [name for name in names if name not in known]


def test_the_quickstart_of_the_readme_is_the_one_that_runs() -> None:
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    assert statements(block) == statements(example)


def statements(text: str) -> list[str]:
    """The lines that run, without what only lines them up or explains them."""
    lines = (re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", '"""'))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


# Put together from pieces, so that this file does not hold them itself.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"(?<![\w.$}])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "op" + "t", "Us" + "ers"]) + r")/\w",
            "py" + r"pi\.org",
            "python" + "hosted",
            "npm" + r"js\.",
            "deb" + r"ian\.org",
            "clau" + "de",
            "anthro" + "pic",
            "sub" + "agent",
        ]
    ),
    re.IGNORECASE,
)


def ours() -> list[Path]:
    """All files of the repository: what git holds or would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:  # An unpacked archive, not a checkout.
        parts = ["src", "tests", "docs", "examples", "benchmarks"]
        return [path for part in parts for path in (ROOT / part).rglob("*.*") if "__pycache__" not in path.parts]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_nothing_names_the_place_where_it_was_made() -> None:
    files = ours()
    assert ROOT / "README.md" in files or ROOT / "tests/test_docs.py" in files
    found = []
    for path in files:
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in FORBIDDEN.finditer(text)]
    assert not found


def test_the_forbidden_words_are_found() -> None:
    assert FORBIDDEN.search("see /wo" + "rk/x")
    assert FORBIDDEN.search("https://py" + "pi.org/simple")
    assert not FORBIDDEN.search("docs/work/x and ./root/x")


def test_tables_with_a_source_hold_what_the_source_holds() -> None:
    page = (ROOT / "docs/when-deep-learning-pays.md").read_text(encoding="utf-8")
    tables = re.findall(r"^Source: `(benchmarks/results/\w+\.md)`\n\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(tables) == page.count("Source: ") > 9
    for source, rows in tables:
        known = [cells(row) for row in (ROOT / source).read_text(encoding="utf-8").splitlines() if row.startswith("|")]
        for row in (cells(row) for row in rows.splitlines() if not row.startswith("| ---")):
            assert any(set(row) <= set(of_source) for of_source in known), f"{source}: {row}"


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]

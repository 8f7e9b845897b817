"""The documentation against the code: names, commands, examples, words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from palate.cli import main

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

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

    monkeypatch.setattr("palate.data.split.SPLITS", {"by-halves": by_halves})
    assert table("SPLITS") == "| name | what |\n| --- | --- |\n| `by-halves` | Half of \\| the rows. |"


def test_models_in_the_readme_exist() -> None:
    cells = re.findall(r"^\| (`[^|]+`) \|", README, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert "neumf" in named
    assert set(named) <= set(entries("MODELS"))


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


def test_the_commands_of_the_readme_run_on_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(60 * 40, 1200, replace=False), 40)
    columns = {"user_id": user + 1, "item_id": item + 1, "rating": rng.integers(1, 6, 1200)}
    times = pl.Series("timestamp", 1_600_000_000 + rng.integers(0, 10**7, 1200))
    pl.DataFrame({**columns, "timestamp": times}).write_csv(tmp_path / "ratings.csv")
    ids = range(1, 61)
    genre = [("crime", "horror", "space")[i % 3] for i in ids]
    films = pl.DataFrame({"item_id": ids, "title": [f"Film {i}" for i in ids], "genre": genre})
    films[:50].write_csv(tmp_path / "movies.csv")
    films[50:].write_csv(tmp_path / "added-today.csv")
    people = pl.DataFrame({"user_id": ids, "age": [20 + i for i in ids]})
    people.write_csv(tmp_path / "people.csv")
    people[:1].drop("user_id").write_csv(tmp_path / "somebody.csv")
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "palate train" in block]
    assert len(blocks) == 2
    for line in "".join(blocks).splitlines():
        with pytest.raises(SystemExit) as end:
            main(line.partition("  #")[0].split()[1:])
        assert end.value.code == 0, line
    shown = capsys.readouterr().out
    assert "ndcg@10" in shown
    assert "Film" in shown
    assert "10 new items, 50 in all" in shown
    assert "route popularity_within" in shown


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

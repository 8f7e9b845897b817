"""Messages about missing packages: the command fits the way palate was installed, and comes before any training."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import sys
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.errors import MissingExtra
from palate.extras import install_command, missing_extra, require

SRC = Path(__file__).resolve().parents[1] / "src" / "palate"
PIP = [sys.executable, "-m", "pip", "install"]
METADATA = """Metadata-Version: 2.5
Name: palate
Version: 0.1.0
Requires-Dist: numpy>=2
Requires-Dist: torch<3,>=2.13
Requires-Dist: optuna>=5; extra == 'tune'
Requires-Dist: alembic>=1.14; extra == 'track'
Requires-Dist: tensorboard>=2.20; extra == "track"
Requires-Dist: fbgemm-gpu-cpu==1.8.0; (sys_platform == 'linux') and extra == 'fast'
"""


def installed(folder: Path, origin: dict[str, Any] | None) -> Distribution:
    """The metadata of an installed palate, as pip writes them."""
    about = folder / "palate-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(METADATA, encoding="utf-8")
    if origin is not None:
        (about / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    return Distribution.at(about)


def test_an_editable_installation_is_extended(tmp_path: Path) -> None:
    source = tmp_path / "my shop's palate"
    source.mkdir()
    found = installed(tmp_path, {"url": source.as_uri(), "dir_info": {"editable": True}})
    assert shlex.split(install_command("tune", found)) == [*PIP, "-e", f"{source}[tune]"]


def test_a_wheel_and_a_repository_are_named(tmp_path: Path) -> None:
    wheel = tmp_path / "palate-0.1.0-py3-none-any.whl"
    wheel.touch()
    local = installed(tmp_path / "a", {"url": wheel.as_uri(), "archive_info": {}})
    assert shlex.split(install_command("tune", local)) == [*PIP, f"palate[tune] @ {wheel.as_uri()}"]
    version = {"vcs": "git", "commit_id": "0f3c", "requested_revision": "main"}
    git = installed(tmp_path / "b", {"url": "https://example.org/palate.git", "vcs_info": version})
    expected = "palate[tune] @ git+https://example.org/palate.git@0f3c"
    assert shlex.split(install_command("tune", git)) == [*PIP, expected]


@pytest.mark.parametrize(
    "origin", [None, {"url": "file:///gone/palate.whl", "archive_info": {}}, {"url": "file:///", "dir_info": {}}]
)
def test_otherwise_the_packages_are_named_with_their_versions(origin: dict[str, Any] | None, tmp_path: Path) -> None:
    found = installed(tmp_path, origin)
    assert shlex.split(install_command("track", found)) == [*PIP, "alembic>=1.14", "tensorboard>=2.20"]
    assert shlex.split(install_command("fast", found))[4:] == ['fbgemm-gpu-cpu==1.8.0; (sys_platform == "linux")']


def test_the_command_of_the_present_installation_runs() -> None:
    """pip accepts it: it finds palate, or the packages, where the command says they are."""
    command = shlex.split(install_command("plots"))
    assert command[0] == sys.executable
    done = subprocess.run(
        [*command, "--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Without a network pip stops at the builder of an editable palate, which it looks for once it has found the folder.
    assert done.returncode == 0 or "No module named 'hatchling'" in done.stderr, done.stderr


def test_the_sentence() -> None:
    error = missing_extra("plots need matplotlib", "plots", "do without")
    assert str(error) == f"plots need matplotlib: {install_command('plots')}, or do without"
    require("numpy", "this needs NumPy", "plots")
    with pytest.raises(MissingExtra, match=r"this needs a package: .* install"):
        require("no_such_package", "this needs a package", "plots")


def test_every_such_error_is_made_in_one_place() -> None:
    for path in SRC.rglob("*.py"):
        made = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        named = [n for n in made if ast.unparse(n.func) == "MissingExtra"]
        assert not named or path.name == "extras.py", path
        assert "pip install '" not in path.read_text(encoding="utf-8") or path.name == "extras.py", path


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["compare", "no.csv", "--out", "runs"], "optuna"),
        (["compare", "no.csv", "--budget", "0", "--out", "runs"], "matplotlib"),
        (["tune", "mf", "no.csv", "--out", "runs"], "optuna"),
        (["auto", "no.csv", "--out", "runs"], "matplotlib"),
        (["explain", "no", "--user", "1", "--item", "2", "--plot", "why.png"], "matplotlib"),
    ],
    ids=["compare", "compare --budget 0", "tune", "auto", "explain --plot"],
)
def test_the_command_line_asks_before_it_reads_any_data(
    words: list[str], package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["palate", *words])
    monkeypatch.setattr("palate.extras.find_spec", absent(package))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert shlex.join(PIP) in said
    assert said.lower().count(package) == 1
    assert "no.csv" not in said


def absent(package: str) -> Any:
    """`find_spec` of an environment without one package."""
    return lambda name, *rest: None if name == package else find_spec(name, *rest)


@pytest.mark.parametrize(
    "words", [["serve", "no"], ["feedback", "export", "no", "no.csv"], ["keys", "list", "--store", "x"]]
)
def test_the_service_names_its_extra(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("palate.extras.find_spec", absent("fastapi"))
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "the service needs fastapi: " in capsys.readouterr().err

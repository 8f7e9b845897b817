"""How much of palate a reader or a run has to touch: files behind one model, files entered by one command, circles.

    python benchmarks/structure.py

Prints, for the source tree beside this file (or `--source DIR`):

- the files that can be reached by import statements from the model `mf`, imports within functions included, and their
  lines;
- the files of palate in which a function runs during `palate train neumf` on a CSV file, up to the saved artifact;
- the import circles, imports within functions included.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TRACE = """
import os, sys, threading
entered = set()
def note(frame, event, argument):
    code = frame.f_code
    if event != "call" or code.co_filename in entered or os.sep + "palate" + os.sep not in code.co_filename:
        return
    while frame is not None:  # what runs while a file is imported does not count
        if frame.f_code.co_name == "<module>" and os.sep + "palate" + os.sep in frame.f_code.co_filename:
            return
        frame = frame.f_back
    entered.add(code.co_filename)
threading.setprofile(note)
sys.setprofile(note)
from palate.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
sys.setprofile(None)
print(*sorted(entered), sep="\\n", file=sys.__stdout__)
"""


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of palate that a file names in import statements, anywhere but under `if TYPE_CHECKING`."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(names & modules.keys() or {node.module or ""})
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found & modules.keys()


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that can be reached from a module, without the module itself unless a circle leads back."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def entered(source: Path) -> list[str]:
    """The files of palate in which a function runs during one training from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        rows = "\n".join(f"u{u},i{(u * 7 + n * n) % 40},{1 + (u + n) % 5},{n}" for u in range(60) for n in range(12))
        table = Path(folder, "ratings.csv")
        table.write_text(f"user_id,item_id,rating,timestamp\n{rows}\n", encoding="utf-8")
        command = ["train", "neumf", str(table), "--duplicates", "last", "--out", str(Path(folder, "run"))]
        command += ["--training.epochs", "2"]
        environment = os.environ | {"PYTHONPATH": str(source)}
        run = [sys.executable, "-c", TRACE, *command]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return [line for line in done.stdout.splitlines() if line.endswith(".py")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path(__file__).resolve().parents[1] / "src")
    source = parser.parse_args().source.resolve()
    modules = {}
    for path in sorted((source / "palate").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {name: imports(path, modules) for name, path in modules.items()}
    start = "palate.models.mf.mf" if "palate.models.mf.mf" in modules else "palate.models.mf"
    behind = reached(graph, start) | {start}
    lines = sum(len(modules[name].read_text(encoding="utf-8").splitlines()) for name in behind)
    print(f"files reachable from {start}: {len(behind)}, {lines:,} lines")
    print(f"files entered by palate train neumf: {len(entered(source))}")
    circles = sorted(name for name in graph if name in reached(graph, name))
    print(f"files in import circles: {len(circles)} {' '.join(circles)}".rstrip())
    everything = [path.read_text(encoding="utf-8").splitlines() for path in modules.values()]
    print(f"files in all: {len(everything)}, {sum(map(len, everything)):,} lines")


if __name__ == "__main__":
    main()

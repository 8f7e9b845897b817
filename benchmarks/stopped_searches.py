"""Stop `palate tune` and `palate compare` at random moments, start them again, and compare with undisturbed ones.

    python benchmarks/stopped_searches.py [--moments 10] [--pairs 3] [--seed 0] [--what tune compare]

Each search is the command line in a process of its own (forked after the imports, which are most of the time of so
small a search), on made-up interactions. It is stopped once, at a random moment
between its first trial and its end, by SIGINT (to the process or, as Ctrl-C does, to its group) or by SIGKILL, and the
same command is run again. In pairs, two processes run the same command at once; in half of the pairs one is killed.

Compared with the undisturbed search: the printed result (the best value; the table and the verdicts, without times and
memory), the settings found, every trial (number, state, value, settings, the metric after each epoch), and for
`compare` the metrics of each user and the trials in the report. Also counted: processes left behind ten seconds after
they were stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import write_result

COMMANDS = {
    "tune": "tune mf synthetic-1000 --split per-user --trials 14 --training.epochs 6 --training.patience 2",
    "compare": "compare synthetic-1000 --split per-user --models popularity,mf --budget 12 --seeds 1 "
    "--training.epochs 6 --training.patience 2",
}
LINGER = 10.0
"""Seconds within which every process of a killed search must have ended."""


class Search:
    """One process that runs a command in a session of its own, so that what it leaves behind can be found."""

    def __init__(self, what: str, out: Path) -> None:
        self.out, self.log = out, out / f"log-{time.monotonic_ns()}"
        out.mkdir(parents=True, exist_ok=True)
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run([*COMMANDS[what].split(), "--out", str(out)])

    def _run(self, words: list[str]) -> None:
        """The command, in the new process."""
        from palate.cli import main

        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        try:
            main(words)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(int(end.code or 0))
        finally:
            traceback.print_exc()
            os._exit(1)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        """The exit code, once it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code

    def until_begun(self) -> float:
        """Wait for the first trial; returns the time."""
        while not (self.out / "study.db").exists() and self.poll() is None:
            time.sleep(0.005)
        return time.perf_counter()

    def until(self, moment: float) -> bool:
        """Wait for a time, or for the end if that comes first; returns whether it still runs."""
        while (runs := self.poll() is None) and time.perf_counter() < moment:
            time.sleep(0.005)
        return runs

    def end(self) -> str:
        """Wait for success; returns what it printed."""
        code = self.wait()
        said = self.log.read_text()
        if code:
            sys.exit(f"exit code {code}:\n{said}")
        return said

    def stop(self, number: int, whole_group: bool) -> str | None:
        """Send a signal and wait for the end; returns what was going on, or None if it came too late."""
        if whole_group:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)
        code = self.wait()
        if code == 0:
            return None
        if code != (130 if number == signal.SIGINT else -number):
            sys.exit(f"stopped by {signal.Signals(number).name}, it ended with {code}:\n{self.log.read_text()}")
        ended = re.findall(r"(?m)^ *((?:\w+: )?(?:trial|seed) \d+)", self.log.read_text())
        return f"after {ended[-1]}" if ended else "within the first trial"

    def left(self) -> int:
        """Processes of this session that have not ended in time."""
        until = time.perf_counter() + LINGER
        while (found := _in_session(self.pid)) and time.perf_counter() < until:
            time.sleep(0.1)
        return len(found)


def _in_session(session: int) -> list[int]:
    """Processes of a session, but for those that have ended and wait to be noticed."""
    table = subprocess.run(["ps", "-eo", "pid=,sid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    return [int(pid) for pid, sid, stat in rows if int(sid) == session and not stat.startswith("Z")]


def outcome(what: str, out: Path, said: str) -> dict[str, Any]:
    """Everything about a finished search that must not depend on how it was run."""
    found: dict[str, Any] = {"trials": trials(out / "study.db")}
    found["settings"] = {path.name: path.read_text() for path in sorted(out.glob("*.json"))}
    if what == "tune":
        return found | {"said": re.findall(r"best .*", said)}
    table = said[said.index("\nmodel ") :].splitlines()
    end = next(i for i, line in enumerate(table) if line.startswith("no significant") or " than " in line)
    found["table"] = [re.split(r"\s{2,}", line)[:-3] for line in table[:end]]
    found["verdicts"] = [line for line in table[end:] if not line.startswith("report: ")]
    report = (out / "report.md").read_text()
    found["report"] = re.findall(r"tuning of .*", report)
    found["running"] = "running" in report
    for path in sorted((out / "results").glob("*.json")):
        evaluation = json.loads(path.read_text())["evaluation"]
        found[path.name] = {name: evaluation[name] for name in ("slices", "exposure", "routes", "protocol")}
    return found


def trials(storage: Path) -> dict[str, list[Any]]:
    """All trials of each study in a file, by number."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url, found = f"sqlite:///{storage}", {}
    for name in optuna.get_all_study_names(url):
        each = optuna.load_study(study_name=name, storage=url).trials
        rows = [[t.user_attrs["number"], t.state.name, t.value, t.params, t.intermediate_values] for t in each]
        found[name] = sorted(rows, key=lambda row: row[0])
    return found


def stopped(what: str, out: Path, seconds: float, number: int, rng: random.Random) -> tuple[str, str, int]:
    """A search that is stopped once and started again; returns output, the moment, and processes left behind."""
    while True:
        search = Search(what, out / str(time.monotonic_ns()))
        begun = search.until_begun()
        moment, whole_group = rng.uniform(0, seconds), number == signal.SIGINT and rng.random() < 0.5
        if search.until(begun + moment) and (where := search.stop(number, whole_group)) is not None:
            break
        seconds = time.perf_counter() - begun  # it was faster than the undisturbed one: stop the next earlier
    left = search.left()
    said = Search(what, search.out).end()
    return json.dumps(outcome(what, search.out, said)), where, left


def pair(what: str, out: Path, seconds: float, kill: bool, rng: random.Random) -> tuple[str, str, int]:
    """Two processes at once, one of them killed or none; both must tell the same."""
    first, second = Search(what, out), Search(what, out)
    where, left = "both ran to the end", 0
    if kill:
        begun = first.until_begun()
        if first.until(begun + rng.uniform(0, seconds / 2)):
            where = f"one killed {first.stop(signal.SIGKILL, False) or 'at its end'}"
            left = first.left()
    each = [json.dumps(outcome(what, out, s.end())) for s in (first, second) if not kill or s is second]
    return (each[0] if len(set(each)) == 1 else "the two differ"), where, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10, help="of each signal")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that `compare` starts
    torch.set_num_threads(1)
    import optuna  # noqa: F401  # before processes are forked

    import palate.cli.tune  # noqa: F401

    rng, rows, equal = random.Random(given.seed), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for what in given.what:
            whole = Search(what, Path(folder) / what)
            begun = whole.until_begun()
            wanted = json.dumps(outcome(what, whole.out, whole.end()))
            seconds = time.perf_counter() - begun
            kinds = [
                (number.name, partial(stopped, what, seconds=seconds, number=number, rng=rng))
                for number in (signal.SIGINT, signal.SIGKILL) * given.moments
            ]
            for turn in range(given.pairs):
                kinds.append(("two at once", partial(pair, what, seconds=seconds, kill=turn % 2 == 1, rng=rng)))
            for turn, (kind, run) in enumerate(kinds):
                found, where, left = run(out=Path(folder) / f"{what}-{turn}")
                rows.append([what, kind, where, str(left), "yes" if found == wanted else "NO"])
                equal.setdefault(f"{what}, {kind}", []).append(found == wanted and not left)
                print(*rows[-1], sep=" | ", flush=True)
    counts = [f"{kind}: {sum(each)} of {len(each)} equal, nothing left behind" for kind, each in equal.items()]
    if given.moments != parser.get_default("moments"):
        print("\n".join(counts))
    else:
        about = [f"`palate {COMMANDS[what]}`." for what in given.what]
        about += [
            f"Each is stopped once and run again; seed of the moments {given.seed}.",
            "Compared: printed table and verdicts without times and memory, settings found, all trials with the metric "
            "after each epoch, metrics of each user on test.",
            *counts,
        ]
        header = ["command", "stopped by", "moment", f"processes left after {LINGER:.0f} s", "equal"]
        name = "_".join(["stopped_searches", *(given.what if given.what != list(COMMANDS) else [])])
        write_result(name, "Searches that are stopped, and two at once", about, header, rows)
    sys.exit(not all(all(each) for each in equal.values()))


if __name__ == "__main__":
    main()

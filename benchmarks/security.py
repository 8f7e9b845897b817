"""Attacks on the service and what each got, in the order of the OWASP API Security Top 10 (2023).

    python benchmarks/security.py

Sends the attacks of `tests/serving/attacks.py` to a real server (`palate serve` with API keys) and writes the table.
Stops with an error if an attack got something else than it must.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import ROOT, write_result

sys.path.append(str(ROOT / "tests/serving"))

from attacks import API, ATTACKS, Reply, target
from running import small_data

from palate.recommender.recommender import Recommender


def told(reply: Reply) -> str:
    """The answer in a few words."""
    if reply.status == 0:
        return "connection closed"
    if reply.headers.get("content-type") == "application/problem+json":
        problem = reply.json
        return f"{reply.status} {problem['type'].rpartition(':')[2]}: {problem['detail'][:90]}".replace("|", "/")
    if not reply.headers and reply.status == 422:
        return "exit code 2: " + reply.body.decode(errors="replace").strip().splitlines()[-1].split(": ", 1)[-1][-90:]
    return f"{reply.status}"


def main() -> None:
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        Recommender.train(small_data(), "ease").save(run)
        with target(run, Path(folder)) as at:
            for api, what, function, right in ATTACKS:
                reply = function(at)
                rows.append([API[api], what.replace("|", "/"), told(reply).replace("`", "'")])
                if reply.status not in right:
                    wrong.append(what)
            failures = len(at.server.events("failure"))
    write_result(
        "security",
        "Attacks on the service",
        [f"{len(rows)} attacks on `palate serve` with API keys; {failures} unexpected errors in "
         f"its log; {len(rows) - len(wrong)} of {len(rows)} got what they must (`tests/serving/attacks.py`)."],
        ["OWASP API Top 10", "attack", "got"],
        rows,
    )  # fmt: skip
    if wrong or failures:
        sys.exit(f"not as it must be: {', '.join(wrong)}; {failures} unexpected errors")


if __name__ == "__main__":
    main()

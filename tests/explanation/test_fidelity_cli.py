"""`palate fidelity`: the table, the verdict, the report, and what happens when something is wrong."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import polars as pl
import pytest
from by_hand import planted

from palate.cli import main
from palate.config import Training
from palate.recommender.recommender import Recommender


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run's folder."""
    model, data = planted(np.random.default_rng(0))
    folder = tmp_path_factory.mktemp("runs") / "ease"
    Recommender(name="ease", model=model, data=data, training=Training(), records=[]).save(folder)
    return folder


def palate(*words):
    """Exit code, what was printed, what was printed of errors."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, out.getvalue(), err.getvalue()


def test_table_verdict_and_report(run, tmp_path):
    code, out, err = palate("fidelity", run, "--users", 25, "--samples", 40, "--out", tmp_path / "out")
    assert code == 0, err
    lines = out.splitlines()
    [header] = [line for line in lines if line.startswith("method")]
    assert header.split()[1:3] == ["cdcg@5", "↓"]
    methods = [line.split()[0] for line in lines[lines.index(header) + 2 :][:8]]
    assert set(methods) == {"exact", "shap", "lime", "occlusion", "gradient", "random", "popularity", "cosine"}
    assert "The most faithful explainer of ease is " in out
    assert "sanity: " in out
    report = (tmp_path / "out" / "fidelity.md").read_text(encoding="utf-8")
    assert "| exact |" in report
    assert "pos-p@5" in report
    assert "exact is more faithful than random on cdcg@5" in report
    assert (tmp_path / "out" / "fidelity.png").read_bytes().startswith(b"\x89PNG")


def test_other_people_and_one_method(run, tmp_path):
    rng = np.random.default_rng(1)
    rows = [(f"new{user}", int(item)) for user in range(12) for item in rng.choice(60, 8, replace=False)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(tmp_path / "others.parquet")
    code, out, err = palate(
        "fidelity", run, tmp_path / "others.parquet", "--method", "exact", "--no-percent", "--out", tmp_path
    )
    assert code == 0, err
    assert "ease, 12 users" in out
    assert "shap" not in out
    assert "pos-p" not in (tmp_path / "fidelity.md").read_text(encoding="utf-8")
    assert not (tmp_path / "fidelity.png").exists()


def test_wrong_words(run, tmp_path):
    code, _, err = palate("fidelity", run, "--method", "magic")
    assert code == 2
    assert "there is no explainer 'magic' of histories; choose from exact, shap" in err
    assert palate("fidelity", run, "--users", 0)[0] == 2
    assert palate("fidelity", tmp_path / "nowhere")[0] == 2

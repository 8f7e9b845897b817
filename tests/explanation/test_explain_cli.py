"""`palate explain` and `palate recommend --explain`: what is printed, drawn and refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from causes import fitted, planted_causes

from palate.config import Training
from palate.data.dataset import Dataset
from palate.models import MODELS
from palate.recommender.recommender import Recommender
from test_cli import palate

HISTORY = "cause 1,cause 4,noise 2,noise 7"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    Recommender(name="multvae", model=fitted("multvae"), data=planted_causes(), training=Training(), records=[]).save(
        folder
    )
    return folder


def test_reasons_and_a_table_that_adds_up(run: Path) -> None:
    done = palate("explain", run, "--history", HISTORY, "--item", "effect 1", "--top", "2")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("effect 1 (effect 1) for history cause 1,cause 4")
    assert lines[0].endswith("explained by occlusion")
    assert lines[1].startswith("Recommended because you liked cause 1 (+")
    assert lines[2].startswith("Score ")
    assert lines[2].endswith(" (residual).")
    score = float(lines[0].split("score ")[1].split(",")[0])
    start = next(place for place, line in enumerate(lines) if line.startswith("kind"))
    assert [line.split()[0] for line in lines[start + 1 :]] == ["history", "history", "others", "base", "residual"]
    assert sum(float(line.split()[-2]) for line in lines[start + 1 :]) == pytest.approx(score, abs=5e-4)


def test_json_holds_everything(run: Path) -> None:
    done = palate(
        "explain", run, "--user", "u003", "--item", "effect 1", "--method", "lime", "--samples", "50", "--json"
    )
    told = json.loads(done.out)
    assert told["method"] == "lime"
    assert 0 <= told["fit"] <= 1
    total = sum(c["value"] for c in told["contributions"]) + told["residual"]
    assert total == pytest.approx(told["score"])


def test_counterfactual_and_global(run: Path) -> None:
    done = palate("explain", run, "--history", HISTORY, "--item", "effect 1", "--counterfactual", "-k", "2")
    assert "Without cause 1, effect 1 would fall from rank 1 to" in done.out or "effect 1 would fall" in done.out, (
        done.err
    )
    as_json = palate(
        "explain", run, "--history", HISTORY, "--item", "effect 1", "--counterfactual", "-k", "2", "--json"
    )
    assert json.loads(as_json.out)["item"] == "effect 1"
    done = palate("explain", run, "--global", "--users", "10", "--method", "occlusion")
    assert "contributions to the top items of 10 users, explained by occlusion" in done.out, done.err
    assert "\nhistory\nitem_id" in done.out
    done = palate("explain", run, "--global", "--users", "5", "--method", "occlusion", "--json")
    assert json.loads(done.out)["users"] == 5
    done = palate("explain", run, "--global", "--users", "3", "--method", "occlusion", "--plot", run.parent / "all.png")
    assert done.code == 0, done.err
    assert (run.parent / "all.png").read_bytes().startswith(b"\x89PNG")
    assert "with --global" in palate("explain", run, "--global", "--plot", run.parent / "all.html").err


def test_a_picture(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "why.png"
    palate("explain", run, "--history", HISTORY, "--item", "effect 1", "--plot", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert (
        "must end in .png or .html"
        in palate("explain", run, "--history", HISTORY, "--item", "effect 1", "--plot", tmp_path / "why.gif").err
    )
    assert (
        "the model must read one"
        in palate("explain", run, "--history", HISTORY, "--item", "effect 1", "--plot", tmp_path / "why.html").err
    )


def test_words_are_shaded(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"user_id": [f"u{n // 3}" for n in range(36)], "item_id": [f"i{n * 5 % 12}" for n in range(36)]}
    )
    plots = [f"tale {'heist' if n % 2 else 'ghost'} {n}" for n in range(12)]
    things = pl.DataFrame({"item_id": [f"i{n}" for n in range(12)], "plot": plots})
    data = Dataset.from_frame(frame.unique(maintain_order=True), things, item_kinds={"plot": "text"})
    kind = MODELS["content-knn"]
    model = kind(kind.Config(), kind.spec_of(data))
    model.fit(data)
    Recommender(name="content-knn", model=model, data=data, training=Training(), records=[]).save(tmp_path / "run")
    asked = ("explain", tmp_path / "run", "--history", "i1,i3", "--item", "i5")
    done = palate(*asked, "--plot", tmp_path / "why.html")
    assert done.code == 0, done.err
    assert "its word" in done.out
    assert ">heist</span>" in (tmp_path / "why.html").read_text("utf-8")
    palate(*asked, "--by", "word", "--plot", tmp_path / "words.png")
    assert (tmp_path / "words.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_with_reasons(run: Path) -> None:
    done = palate("recommend", run, "--history", HISTORY, "-k", "3", "--explain")
    assert "reasons" in done.out
    assert "Recommended because you liked cause" in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--item", "effect 1"), "give --item ID and either --user ID or --history ID,ID"),
        (("--user", "u003"), "give --item ID"),
        (("--user", "nobody", "--item", "effect 1"), "give their items instead"),
        (("--user", "u003", "--item", "no such"), "no such"),
        (("--user", "u003", "--item", "effect 1", "--samples", "0"), "samples 0 is out of range"),
        (("--user", "u003", "--item", "effect 1", "--method", "exact"), "use one of gradient, shap, lime, occlusion"),
        (("--user", "u003", "--item", "effect 1", "--by", "region"), "hold nothing that"),
    ],
)
def test_what_cannot_be_told(run: Path, words: tuple[str, ...], told: str) -> None:
    done = palate("explain", run, *words)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err

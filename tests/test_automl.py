"""auto: candidates that fit, the race and its interruptions, the verdict, the folder it leaves, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import palate
from palate.automl import Auto, auto
from palate.automl.candidates import Candidate, choose_task, find_candidates, in_words, sampled
from palate.automl.catalogue import FACTORS, NEURAL, TIERS
from palate.automl.race import Race, Task
from palate.automl.state import Clock, Run, State, claim, search_folder
from palate.automl.story import bigger_budget, summary
from palate.cli import main
from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.errors import ArtifactError, ConfigError, DataError, PalateError
from palate.models import MODELS
from palate.recommender.recommender import Recommender
from palate.testing import planted
from palate.tune.spaces import SPACES, Choice, Range

WEEK = {"minutes": 10_000.0}
"""A budget that nothing here can spend, so that results do not depend on the clock."""


@pytest.fixture(scope="module")
def parts() -> Split:
    return planted().train.split("per-user", valid=0.2, test=0.2)


@pytest.fixture(scope="module")
def lists(parts: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[Auto, list[str]]:
    news: list[str] = []
    out = tmp_path_factory.mktemp("auto") / "best"
    how: dict[str, Any] = {"candidates": ["itemknn", "gmf"], "trials": 2, "title": "<b>shop</b> & co"}
    return auto(parts, out, **WEEK, **how, on_news=news.append), news


def test_a_search_leaves_a_recommender_of_all_rows(lists: tuple[Auto, list[str]], parts: Split) -> None:
    found, _ = lists
    loaded = Recommender.load(found.out)
    assert len(loaded.data) == sum(len(part) for part in (parts.train, parts.valid, parts.test))
    assert loaded.name == found.record["winner"]["model"] == found.recommender.name
    user = str(loaded.data.users.ids[0])
    assert loaded.recommend(user, k=3).equals(found.recommender.recommend(user, k=3))
    assert not search_folder(found.out).exists()
    assert {path.name for path in found.out.iterdir()} >= {"auto.json", "report.html", "report.md", "evaluation.json"}


def test_baselines_run_and_every_candidate_is_recorded(lists: tuple[Auto, list[str]]) -> None:
    record = lists[0].record
    by_label = {run["label"]: run for run in record["tried"]}
    assert list(by_label) == [
        "popularity", "recent-popularity", "itemknn", "gmf", "gmf, settings 1", "gmf, settings 2",
    ]  # fmt: skip
    assert set(record["test"]) >= {"popularity", "recent-popularity", record["winner"]["label"]}
    assert by_label["itemknn"]["value"] > by_label["popularity"]["value"]
    assert "chosen on valid" in by_label["itemknn"]["chosen"]
    assert by_label["gmf"]["status"] == "finished"
    assert set(by_label["gmf, settings 1"]["settings"]) == set(SPACES["gmf"])
    statuses = {by_label[f"gmf, settings {n}"]["status"] for n in (1, 2)}
    assert statuses == {"finished", "dropped"}  # of two settings, the worse one does not go on
    assert json.loads((lists[0].out / "auto.json").read_text(encoding="utf-8"))["tried"] == record["tried"]


def test_the_simplest_within_the_interval_of_the_best_is_taken(parts: Split, tmp_path: Path) -> None:
    record = auto(parts, tmp_path / "best", **WEEK, candidates=["itemknn", "puresvd"], trials=0).record
    assert record["best_on_valid"]["label"] == "blend"
    assert record["best_on_valid"]["value"] >= max(run["value"] for run in record["tried"])
    assert sum(record["blend"]["weights"].values()) == pytest.approx(1)
    assert record["winner"]["label"] == "puresvd"
    assert record["difference"]["low"] <= 0 <= record["difference"]["high"]
    assert set(record["test"]) == {"puresvd", "blend", "popularity", "recent-popularity"}
    (why,) = [line for line in summary(record) if "On the valid part" in line]
    assert why.startswith("On the valid part blend was best (ndcg@10 0.")
    assert "but puresvd is simpler (closed form) and within the uncertainty" in why


def test_training_continues_after_a_pause(lists: tuple[Auto, list[str]], parts: Split) -> None:
    found, news = lists
    steps = [line for line in news if "  gmf: " in line]
    assert [" 5 epochs" in steps[0], " 15 epochs" in steps[1]] == [True, True]
    assert all("paused" in line for line in steps[:2])
    run = next(run for run in found.record["tried"] if run["label"] == "gmf")
    undisturbed = Recommender.train(parts.train, "gmf", valid=parts.valid, seed=0)
    assert run["epochs"] == len(undisturbed.records)
    assert run["value"] == max(record.valid["ndcg@10"] for record in undisturbed.records)


def test_the_report_says_it_in_words_and_escapes_the_title(lists: tuple[Auto, list[str]]) -> None:
    found, _ = lists
    page = (found.out / "report.html").read_text(encoding="utf-8")
    assert "<h1>palate auto: &lt;b&gt;shop&lt;/b&gt; &amp; co</h1>" in page
    assert "<b>shop" not in page
    text = (found.out / "report.md").read_text(encoding="utf-8")
    for heading in ("What was tried", "What a bigger budget might change", "Results", "Comparison"):
        assert f"\n## {heading}\n" in text
    winner = found.record["winner"]["label"]
    assert f"The recommender is {winner}, trained anew on all 1,920 rows" in text
    assert f"{winner} is better than" in text
    assert ("within the uncertainty: blend minus" in text) == (found.record["difference"] is not None)
    assert "more time alone changes nothing" in text
    assert "search.png" in text
    assert f"The recommender is {winner}, trained anew" in str(found)


def test_the_same_call_gives_the_stored_result_and_another_is_refused(
    lists: tuple[Auto, list[str]], parts: Split
) -> None:
    out = lists[0].out
    how: dict[str, Any] = {"candidates": ["itemknn", "gmf"], "trials": 2}
    again = auto(parts, out, **WEEK, **how, on_news=lambda line: pytest.fail(line))
    assert again.record["tried"] == lists[0].record["tried"]
    with pytest.raises(ConfigError, match=r"minutes 10000\.0 there, 5 here"):
        auto(parts, out, minutes=5, **how)
    other = planted().train.split("per-user", valid=0.2, test=0.1)
    with pytest.raises(ConfigError, match="another table"):
        auto(other, out, **WEEK, **how)


STEPS = """
import os, signal, sys
from palate.automl import auto
from palate.testing import planted
steps = 0
def on_step(*_):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
parts = planted().train.split("per-user", valid=0.2, test=0.2)
auto(parts, sys.argv[1], minutes=10_000.0, candidates=["itemknn", "gmf"], trials=2, on_step=on_step)
"""


def test_a_search_that_was_killed_ends_as_an_undisturbed_one(
    lists: tuple[Auto, list[str]], parts: Split, tmp_path: Path
) -> None:
    """By kill -9 in the middle of the second rung, then by Ctrl-C between two candidates."""
    out = tmp_path / "best"
    killed = subprocess.run([sys.executable, "-c", STEPS, str(out), "25"], check=False)
    assert killed.returncode == -9
    assert not out.exists()
    spent = float((search_folder(out) / "clock.json").read_text())
    assert json.loads((search_folder(out) / "gmf.json").read_text())["epochs"] >= 5
    how: dict[str, Any] = {"candidates": ["itemknn", "gmf"], "trials": 2}
    news: list[str] = []

    def stop(line: str) -> None:
        news.append(line)
        if "settings 1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        auto(parts, out, **WEEK, **how, on_news=stop)
    assert not [line for line in news if "  itemknn: " in line]  # it was done
    assert float((search_folder(out) / "clock.json").read_text()) > spent
    with pytest.raises(ConfigError, match="a search that was stopped, with other conditions"):
        auto(parts, out, **WEEK, **{**how, "trials": 3})
    found = auto(parts, out, **WEEK, **how)
    timed = ("seconds", "ended")
    for ours, theirs in zip(found.record["tried"], lists[0].record["tried"], strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    for name in ("winner", "difference", "test"):
        assert found.record[name] == lists[0].record[name]


def test_only_time_spent_counts(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    path.write_text("100.0")
    with Clock(path, 60) as clock:
        assert 100 <= clock.spent < 110
        assert clock.left < -40
    assert 100 <= float(path.read_text()) < 110


@pytest.mark.parametrize("text", ["{", "[]", '{"epochs": 1, "unknown": 2}', "[" * 100_000])
def test_files_of_a_search_are_checked(tmp_path: Path, text: str) -> None:
    folder = search_folder(tmp_path / "best")
    assert not claim(tmp_path / "best", {"table": "t"})
    state = State(folder, lambda run: pytest.fail("not asked for"))
    candidate = Candidate(model="mf", tier=FACTORS, seconds=1.0)
    for name in ("mf.json", "clock.json", "search.json"):
        (folder / name).write_text(text)
    for read in (lambda: state.run(candidate), lambda: Clock(folder / "clock.json", 60), lambda: State(folder, Any)):
        with pytest.raises(ArtifactError, match="cannot be read as a search"):
            read()


def test_ratings_are_predicted_on_request(tmp_path: Path) -> None:
    found = auto(planted().train, tmp_path / "best", **WEEK, task="ratings", candidates=["gmf"], trials=0)
    record = found.record
    assert record["metric"] == "rmse"
    assert {run["label"] for run in record["tried"]} == {"bias", "gmf"}
    assert found.recommender.predict("u000", "i00")["prediction"].is_between(1, 5).all()
    assert "Candidates were chosen for predicted ratings, because you asked for it." in str(found)
    values = [run["value"] for run in record["tried"]]
    assert record["best_on_valid"]["value"] <= min(values)


def test_content_is_used_and_new_items_are_recommended(tmp_path: Path) -> None:
    data = planted().train
    parts = data.split("new-items", valid=0.2, test=0.2)
    found = auto(parts, tmp_path / "best", **WEEK, candidates=["content-knn", "ease"], trials=0)
    assert found.record["winner"]["label"] == "content-knn"
    assert "content-knn is better than" in found.record["against_baseline"]
    more = pl.DataFrame({"item_id": ["new"], "title": ["new one"], "genre": ["horror"]})
    listed = found.recommender.add_items(more).recommend("u002", candidates=["new", "i02"], exclude_seen=False)
    assert "new" in listed["item_id"]


def names(found: tuple[list[Candidate], dict[str, str]]) -> set[str]:
    return {candidate.model for candidate in found[0]}


def test_candidates_fit_the_data() -> None:
    train = planted().train
    whole = names(find_candidates(train, "lists", 1e6))
    assert whole >= {"popularity", "recent-popularity", "ease", "mf", "neumf", "sasrec", "content-knn", "hybrid"}
    assert not whole & {"image-cnn", "bias", "blend", "bayes-mf"}
    bare = replace(train, timestamp=None, item_table=None, user_table=None)
    left = whole - names(find_candidates(bare, "lists", 1e6))
    assert left >= {"recent-popularity", "sasrec", "markov", "content-knn", "two-tower", "deepfm"}
    rated = names(find_candidates(bare, "ratings", 1e6))
    assert rated >= {"bias", "mf", "bayes-mf", "svdpp"}
    assert not rated & {"popularity", "ease", "deepfm"}
    configs = {candidate.model: candidate.config for candidate in find_candidates(train, "ratings", 1e6)[0]}
    assert configs["neumf"] == {"loss": "mse"}
    assert configs["svdpp"] == {"time": True}


def test_candidates_come_in_order_of_cost_and_never_exceed_the_budget() -> None:
    found, left_out = find_candidates(planted().train, "lists", 3.0)
    assert [candidate.model for candidate in found[:2]] == ["popularity", "recent-popularity"]
    seconds = [candidate.seconds for candidate in found[2:]]
    assert seconds == sorted(seconds)
    assert max(seconds) <= 3
    assert "longer than the budget" in left_out["sasrec"]
    weighted = replace(planted().train, weight=np.ones(len(planted().train), dtype=np.float32))
    assert "cannot learn from sample weights" in find_candidates(weighted, "lists", 1e6)[1]["markov"]


def test_a_dense_table_of_ratings_is_for_ratings(parts: Split) -> None:
    task, why = choose_task(parts)
    assert (task, "of the items, and the others can be recommended" in why) == ("lists", True)
    rows = [(u, i, float(1 + (u + i) % 5)) for u in range(20) for i in range(12) if (u * i) % 7]
    dense = Dataset.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row"))
    task, why = choose_task(dense.split("per-user"))
    assert (task, "so there is little left to list" in why) == ("ratings", True)
    events = replace(dense, rating=None)
    assert choose_task(events.split("per-user")) == ("lists", "the table has no ratings")
    equal = replace(dense, rating=np.ones_like(dense.rating))
    assert choose_task(equal.split("per-user")) == ("lists", "all ratings are equal")


def test_sampled_settings_are_within_the_space_and_leave_out_what_models_choose() -> None:
    mf = Candidate(model="mf", config={"loss": "mse"}, tier=FACTORS, seconds=1.0, epochs=50)
    first = sampled(mf, 1, 0, 2.0)
    assert first == sampled(mf, 1, 0, 2.0)
    assert first != replace(sampled(mf, 2, 0, 2.0), number=1)
    assert first.config["loss"] == "mse"
    assert first.label == "mf, settings 1"
    MODELS["mf"].Config(**first.config)
    ials = Candidate(model="ials", tier=FACTORS, seconds=1.0)
    assert set(sampled(ials, 1, 0, 1.0).config) == {"dim"}  # it chooses alpha and reg on valid by itself
    rng = np.random.default_rng(0)
    whole = {Range(2, 4).sample(rng) for _ in range(60)}
    assert whole == {2, 3, 4}
    log = [Range(1e-4, 1.0, log=True).sample(rng) for _ in range(400)]
    assert 1e-4 <= min(log) <= max(log) <= 1
    assert 0.3 < np.mean(np.array(log) < 1e-2) < 0.7
    assert {Choice(("a", "b")).sample(rng) for _ in range(20)} == {"a", "b"}


def race_of(runs: list[Run], parts: Split, folder: Path, budget: float) -> Race:
    claim(folder, {})
    task = Task(train=parts.train, valid=parts.valid, metric="ndcg@10", seed=0, say=lambda line: None)
    race = Race(task, State(search_folder(folder), task.build), Clock(folder / "c", budget), [], 1.0)
    race.runs = runs
    return race


def paused(name: str, value: float, seconds: float) -> Run:
    candidate = Candidate(model=name, tier=NEURAL, seconds=100.0, epochs=100)
    return Run(candidate=candidate, status="paused", epochs=10, value=value, seconds=seconds)


def test_of_the_worse_half_the_dearest_go_first_and_only_if_time_is_short(parts: Split, tmp_path: Path) -> None:
    runs = [paused("mf", 0.4, 9), paused("gmf", 0.3, 1), paused("mlp", 0.2, 1), paused("neumf", 0.1, 10)]
    # To the usual end, 50 epochs, they need four times what they took: 36 + 4 + 4 + 40 seconds.
    assert race_of(runs, parts, tmp_path / "a", 100)._losers(runs, always=False) == []
    assert race_of(runs, parts, tmp_path / "b", 60)._losers(runs, always=False) == ["neumf"]
    assert race_of(runs, parts, tmp_path / "c", 10)._losers(runs, always=False) == ["neumf", "mlp"]
    assert race_of(runs, parts, tmp_path / "d", 100)._losers(runs, always=True) == ["neumf", "mlp"]


def test_a_budget_that_is_spent_keeps_the_best_weights_so_far(parts: Split, tmp_path: Path) -> None:
    claim(tmp_path / "best", {})
    task = Task(train=parts.train, valid=parts.valid, metric="ndcg@10", seed=0, say=lambda line: None)
    state = State(search_folder(tmp_path / "best"), task.build)
    candidates = find_candidates(parts.train, "lists", 1e6, ["gmf"])[0]
    path = tmp_path / "clock.json"
    clock = Clock(path, 1e6)

    def spend(epoch: int, *_: Any) -> None:
        clock._before = 1e7 if epoch == 8 else 0.0

    race = Race(replace(task, on_step=spend), state, clock, candidates, 1.0)
    race.search(trials=5)
    statuses = {run.candidate.label: run.status for run in race.runs}
    assert statuses == {"popularity": "finished", "recent-popularity": "finished", "gmf": "stopped"}
    run = race.runs[-1]
    assert run.epochs in (7, 8)
    assert run.evaluation
    assert run.value == max(record["valid"]["ndcg@10"] for record in run.records)


def test_a_candidate_that_takes_the_process_with_it_is_not_started_a_third_time(parts: Split, tmp_path: Path) -> None:
    claim(tmp_path / "best", {})
    task = Task(train=parts.train, valid=parts.valid, metric="ndcg@10", seed=0, say=lambda line: None)
    state = State(search_folder(tmp_path / "best"), task.build)
    candidates = find_candidates(parts.train, "lists", 1e6, ["ease"])[0]
    state.save(replace(state.run(candidates[-1]), starts=2))
    race = Race(task, state, Clock(tmp_path / "clock.json", 1e6), candidates, 1.0)
    race.search(trials=0)
    assert race.runs[-1].status == "failed"
    assert "memory may have run out" in race.runs[-1].fault
    assert [run.candidate.model for run in race.final()] == ["popularity", "recent-popularity"]


def test_what_a_bigger_budget_might_change_names_what_is_not_done(lists: tuple[Auto, list[str]]) -> None:
    record = json.loads(json.dumps(lists[0].record))
    (done, floor) = bigger_budget(record)
    assert done.startswith("Everything that fits the data was tried to its end")
    assert "a smaller gain would not be seen" in floor
    by_label = {run["label"]: run for run in record["tried"]}
    by_label["itemknn"].update(status="waiting", value=None)
    by_label["gmf"].update(status="stopped", epochs=12)
    by_label["gmf, settings 2"].update(status="waiting", value=None)
    record["left_out"] = {"sasrec": "it would take about 3 hours, longer than the budget", "x": "needs ratings"}
    said = " ".join(bigger_budget(record))
    assert "Not started, because the time was spent: itemknn." in said
    assert "gmf after 12 of at most 50 epochs, at 0." in said
    assert "Not tried, because they would take longer than the budget: sasrec." in said
    assert "1 of 2 sampled settings were tried" in said
    record["winner"] |= {"label": "popularity", "kind": TIERS[0], "weights": {}}
    record["against_baseline"] = ""
    record["data"]["valid_users"] = 4
    assert any("It is a baseline itself" in line for line in summary(record))
    assert any("The valid part has 4 users, which is too few" in line for line in summary(record))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 seconds"), (60, "60 seconds"), (600, "10 minutes"), (9000, "2.5 hours")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"minutes": 0}, "minutes = 0 is out of range; give a number above 0"),
        ({"minutes": float("nan")}, "minutes = nan is out of range"),
        ({"trials": -1}, "trials = -1 is out of range"),
        ({"candidates": ["eese"]}, "there is no model 'eese'; did you mean 'ease'"),
        ({"candidates": ["bayes-mf"]}, "'bayes-mf' is no candidate for lists"),
        ({"candidates": ["blend"]}, "'blend' is made of the best candidates by itself"),
        ({"candidates": ["image-cnn"]}, "needs item_image, which this data lacks"),
        ({"metric": "rmse"}, "does not measure lists"),
        ({"metric": "gini@10"}, "cannot choose a model"),
        ({"metric": "ndgc@10"}, "ndcg"),
    ],
)
def test_bad_input_is_one_error(how: dict[str, Any], told: str, parts: Split, tmp_path: Path) -> None:
    with pytest.raises(PalateError, match=told.replace("(", r"\(")):
        auto(parts, tmp_path / "best", **how)
    assert list(tmp_path.iterdir()) == []


def test_tables_that_are_too_small_or_have_no_ratings_are_refused(tmp_path: Path) -> None:
    few = pl.DataFrame({"user_id": range(10), "item_id": range(10)})
    with pytest.raises(DataError, match="the table has 10 rows of 10 users, and auto needs at least 30 rows"):
        auto(few, tmp_path / "best")
    many = pl.DataFrame({"user_id": [u for u in range(20) for _ in range(4)], "item_id": [*range(8)] * 10})
    with pytest.raises(ConfigError, match='task="ratings" needs ratings'):
        auto(many, tmp_path / "best", task="ratings")
    with pytest.raises(DataError, match="the valid part of the split has no rows"):
        auto(Dataset.from_frame(many).split("per-user", valid=0), tmp_path / "best")


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: (p.mkdir(), (p / "notes.txt").touch())])
@pytest.mark.parametrize("place", ["best", "best.search"])
def test_a_folder_that_holds_something_else_is_refused(
    make: Callable[[Path], Any], place: str, parts: Split, tmp_path: Path
) -> None:
    make(tmp_path / place)
    with pytest.raises(ArtifactError, match="exists and is not what palate auto writes"):
        auto(parts, tmp_path / "best", candidates=["ease"])


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_from_a_table_with_names_of_its_own_to_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"user_id": "Kunde", "item_id": "Artikel", "rating": "Note", "timestamp": "Tag"}
    planted().train.frame().rename(odd).write_csv(tmp_path / "orders.csv", separator=";")
    planted().train.item_table.rename({"item_id": "Artikel"}).write_csv(tmp_path / "things.csv")
    columns = ["--user-id", "Kunde", "--item-id", "Artikel", "--rating", "Note", "--timestamp", "Tag"]
    data, out = str(tmp_path / "orders.csv"), str(tmp_path / "best")
    words = [data, *columns, "--candidates", "ease", "--trials", "0", "--out", out]
    assert run("auto", *words, "--minutes", "0") == 2
    assert "--minutes 0 is out of range" in capsys.readouterr().err
    assert run("auto", *words, "--items", data, "--items-id", "No") == 2
    assert "No" in capsys.readouterr().err
    assert run("auto", *words, "--split", "none") == 2
    assert "name a --split" in capsys.readouterr().err
    assert run("auto", *words, "--items", str(tmp_path / "things.csv")) == 0
    said = capsys.readouterr().out
    assert "--task ratings predicts ratings instead" in said
    assert "The recommender is ease" in said
    assert "What a bigger budget might change:" in said
    assert run("evaluate", out) == 0
    assert "measured before the run was trained anew on all rows" in (said := capsys.readouterr().out)
    assert "ndcg@10" in said
    assert run("recommend", out, "--user", "u001", "-k", "3") == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4
    assert run("auto", *words, "--items", str(tmp_path / "things.csv")) == 0
    assert "holds the result of this search already" in capsys.readouterr().out
    assert run("auto", *words) == 2
    assert "another table" in capsys.readouterr().err


def test_auto_is_a_public_name() -> None:
    assert palate.auto is auto

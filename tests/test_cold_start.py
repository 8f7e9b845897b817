"""The whole way of what is new: side tables, a content model, lists of new items and for new people, save and load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from palate import Recommender
from palate.data.dataset import Dataset, Queries
from palate.data.features import table as table_module
from palate.data.features.schema import nothing_known
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, DataError, UnknownId
from palate.evaluation.evaluate import evaluate
from palate.evaluation.measure import ROUTES
from palate.evaluation.protocol import Protocol
from palate.evaluation.validate import Validator
from palate.models.mf.mf import MF
from palate.ranking.rules import Rules
from palate.recommender.artifact import CARD
from tastes import MODELS, Tastes, TastesConfig, world

COLD = ("recall@10", "ndcg@10", "coverage@40")
NEW = pl.DataFrame({"item_id": ["n1", "n2", "n3"], "genre": ["horror", "opera", None], "studio": ["x", "y", "z"]})


@pytest.fixture(scope="module")
def parts():
    return world()


@pytest.fixture(scope="module")
def rec(parts) -> Recommender:
    return Recommender.train(parts.train, Tastes(TastesConfig(), Tastes.spec_of(parts.train)), valid=parts.valid)


def of_genre(index: int) -> pl.Expr:
    """Items of the planted world with this genre."""
    return pl.col("item_id").str.slice(1).cast(pl.Int64) % 4 == index


def test_notes_count_what_is_left_out(parts) -> None:
    assert any("4 of 124 items have no interactions and were dropped" in note for note in parts.train.notes)
    assert parts.train.feature_notes == ("item table: column 'studio' is not used: all values are equal: same",)
    frame = pl.DataFrame({"user_id": ["a", "a"], "item_id": ["x", "y"]})
    data = Dataset.from_frame(frame, items=pl.DataFrame({"item_id": ["x"], "genre": ["drama"]}))
    assert data.notes == ("item table: 1 of 2 items of the interactions have no row",)
    assert data.unused_items is None
    larger = Dataset.from_frame(frame, items=pl.DataFrame({"item_id": ["z", "x"], "genre": ["crime", "drama"]}))
    assert larger.unused_items is not None
    assert larger.unused_items.rows() == [("z", "crime")]
    assert data.item_table is not None
    assert data.item_table["genre"].to_list() == ["drama", None]


def test_features_are_learned_from_train_alone(parts) -> None:
    frame = pl.DataFrame({"user_id": ["a"] * 4 + ["b"] * 4, "item_id": list("wxyz") * 2, "timestamp": range(8)})
    items = pl.DataFrame(
        {"item_id": list("wxyz"), "kind": ["one", "two", "one", "secret"], "size": [1.0, 3.0, 1.0, 99.0]}
    )
    whole = Dataset.from_frame(frame, items, item_kinds={"kind": "category"})
    train = whole.take(whole.item < 3)
    train = replace(train, items=type(whole.items)(whole.items.ids[:3]), item_table=items[:3])
    features = train.feature_spec.item_features
    assert features is not None
    assert features.columns[0].values == ("one", "two")
    assert features.columns[1].mean == pytest.approx((5 / 3,))
    encoded = whole.encoded_items(features)
    assert encoded.categories[:, 0].tolist() == [1, 2, 1, 0]
    assert parts.train.feature_spec.n_items == parts.train.n_items
    assert parts.train.feature_spec is parts.train.feature_spec


def test_queries_tell_of_people(parts) -> None:
    train, spec = parts.train, parts.train.feature_spec
    queries = train.queries(np.array([0, 5]), spec)
    assert queries.features is not None
    assert queries.features.categories[:, 0].tolist() == [
        train.encoded_users(spec.user_features).categories[u, 0] for u in (0, 5)
    ]
    assert train.queries(np.array([0]), train.spec).features is None
    bare = replace(train, user_table=None)
    assert not bare.queries(np.array([0]), spec).features.any_known.any()


def test_recommend_for_people_known_by_attributes(rec: Recommender) -> None:
    people = pl.DataFrame({"club": ["club 2", "club 0", None, "club 9"], "user_id": [1, 2, 3, 4]})
    found = rec.recommend(features=people, k=5)
    assert found["query"].unique(maintain_order=True).to_list() == [0, 1, 2, 3]
    assert found.group_by("query", maintain_order=True).first()["route"].to_list() == [
        "content",
        "content",
        "popularity",
        "popularity",
    ]
    assert found.filter(pl.col("query") == 0).select(of_genre(2)).to_series().all()
    assert found.filter(pl.col("query") == 1).select(of_genre(0)).to_series().all()
    # A history goes before; what is known of the person may be given beside it.
    one = rec.data.items.ids.filter(rec.data.items.ids.str.slice(1).cast(pl.Int64) % 4 == 3)[0]
    both = rec.recommend(features=people[:2], history=[[one], []], k=5)
    assert both.group_by("query", maintain_order=True).first()["route"].to_list() == ["history", "content"]
    assert both.filter(pl.col("query") == 0).select(of_genre(3)).to_series().all()
    assert rec.recommend(["u00"], k=1)["route"].to_list() == ["history"]


def test_questions_about_people_that_make_no_sense(rec: Recommender, parts) -> None:
    people = pl.DataFrame({"club": ["club 2"]})
    with pytest.raises(ConfigError, match="features= describes new users, and users= names known ones"):
        rec.recommend(["u00"], features=people)
    with pytest.raises(DataError, match=r"column 'clubb' is not in the user table .* did you mean 'club'?"):
        rec.recommend(features=people.rename({"club": "clubb"}))
    with pytest.raises(DataError, match=r"column 'shoe' is not in the user table .* leave it out"):
        rec.recommend(features=people.with_columns(shoe=1))
    with pytest.raises(DataError, match="the table has none of the columns that the model uses: club"):
        rec.recommend(features=pl.DataFrame({"user_id": ["u00"]}))
    with pytest.raises(ConfigError, match="2 histories do not match 1 rows"):
        rec.recommend(features=people, history=[[], []])
    with pytest.raises(DataError, match="club was learned as category and now holds list"):
        rec.recommend(features=pl.DataFrame({"club": [["club 2"]]}))
    with pytest.raises(DataError, match="no rows"):
        rec.recommend(features=people[:0])
    plain = Recommender.train(parts.train, "popularity")
    bare = Recommender.train(replace(parts.train, user_table=None), "popularity")
    with pytest.raises(CannotAnswer, match="this model cannot use features of users"):
        bare.recommend(features=people)
    with pytest.raises(CannotAnswer, match="Popularity knows items by their interactions alone"):
        plain.add_items(NEW)


@pytest.mark.parametrize("name", ["itemknn", "mf", "content-knn"])
def test_people_of_whom_a_model_knows_only_attributes_get_what_is_popular_with_their_like(
    parts, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palate.models.fallback.PRIOR_INTERACTIONS", 100.0)  # for a world of 640 rows
    rec = Recommender.train(parts.train, name, training={"epochs": 1} if name == "mf" else None)
    people = pl.DataFrame({"club": ["club 2", "club 0", None, "club 9"]})
    found = rec.recommend(features=people, k=5, explain=True)
    routes = found.group_by("query", maintain_order=True).first()["route"].to_list()
    assert routes == ["popularity_within"] * 2 + ["popularity"] * 2
    by_person = found.partition_by("query", include_key=False)
    assert by_person[0].select(of_genre(2)).to_series().all()
    assert by_person[1].select(of_genre(0)).to_series().all()
    assert_frame_equal(by_person[2], by_person[3])
    assert by_person[2]["item_id"].to_list() == rec.recommend(history=[], k=5)["item_id"].to_list()
    told = found["reasons"].to_list()
    assert set(told[:5]) == {"Recommended because it is popular with similar users (club club 2)"}
    assert set(told[10:]) == {"Recommended because it is popular; nothing is known about this user"}
    # With rules, saved and loaded, and beside a history, which goes before where the model can use it.
    only = rec.recommend(features=people[:1], k=5, rules=Rules(exclude=(by_person[0]["item_id"][0],)))
    assert only["item_id"].to_list()[:4] == by_person[0]["item_id"].to_list()[1:]
    rec.save(tmp_path / "run")
    back = Recommender.load(tmp_path / "run")
    assert_frame_equal(back.recommend(features=people, k=5, explain=True), found)
    both = back.recommend(features=people[:1], history=[[rec.data.items.ids[0]]], k=1)
    assert both["route"].to_list() == ["history"]


def test_a_model_built_on_counts_alone_knows_no_attributes(parts) -> None:
    model = MF(MF.Config(), parts.train.spec)
    rec = Recommender.train(parts.train, model, training={"epochs": 1})
    popular = Recommender.train(parts.train, "popularity")
    assert popular.recommend(features=pl.DataFrame({"club": ["club 2"]}), k=1)["route"].to_list() == ["popularity"]
    with pytest.raises(CannotAnswer, match=r"or the model was built on `data.spec`"):
        rec.recommend(features=pl.DataFrame({"club": ["club 2"]}))


def test_new_items_are_listed_found_and_saved(rec: Recommender, tmp_path: Path) -> None:
    grown = rec.add_items(NEW)
    assert grown.data.n_items == rec.data.n_items + 3 == grown.model.spec.n_items
    assert (rec.model.spec.new_items, grown.model.spec.new_items) == (0, 3)
    assert rec.data.n_items == len(rec.model.rows)  # what was there is as it was
    horror = pl.DataFrame({"club": ["club 2"]})
    assert "n1" in grown.recommend(features=horror, k=grown.data.n_items, candidates=["n1", "n2"])["item_id"][:1]
    assert grown.recommend(["u02"], k=100)["item_id"].is_in(["n1"]).any()
    like = grown.similar("n1", k=10)
    assert like["route"].unique().to_list() == ["item_vectors"]
    assert like.filter(pl.col("score") > 0.5).select(of_genre(2)).to_series().all()
    assert like["score"][0] == pytest.approx(1.0)
    assert grown.data.item_table["genre"].tail(3).to_list() == ["horror", "opera", None]

    again = grown.add_items(pl.DataFrame({"item_id": ["n4"], "genre": ["drama"]}))
    assert again.model.spec.new_items == 4
    again.save(tmp_path / "run")
    back = Recommender.load(tmp_path / "run", models=MODELS)
    assert back.model.spec == again.model.spec
    assert dict(back.data.item_kinds) == {"genre": "category"}
    for ask in ({"users": ["u02", "u03"]}, {"features": horror}, {"history": ["n4", rec.data.items.ids[0]]}):
        assert_frame_equal(back.recommend(**ask, k=20), again.recommend(**ask, k=20))
    assert_frame_equal(back.similar("n4"), again.similar("n4"))
    assert back.add_items(pl.DataFrame({"item_id": ["n5"], "genre": ["drama"]})).data.n_items == again.data.n_items + 1


def test_ids_of_new_items_may_have_a_name_of_their_own(rec: Recommender) -> None:
    assert rec.data.item_table is not None
    columns = [name for name in rec.data.item_table.columns if name != "item_id"]
    new = rec.data.item_table.head(2).with_columns(item_id=pl.Series(["new1", "new2"]))
    named = new.rename({"item_id": "ArticleNo"})
    assert rec.add_items(named).data.items.ids.equals(rec.add_items(new).data.items.ids)
    with pytest.raises(DataError, match="no column for item_id"):
        rec.add_items(named.with_columns(Other=pl.lit("x")).select("ArticleNo", "Other", *columns))


def test_new_items_keep_what_is_known(parts, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = Recommender.train(parts.train, Tastes(TastesConfig(), Tastes.spec_of(parts.train)))
    rec.recommend(["u00"], k=1)
    calls = []
    for name in ("infer_columns", "encode"):
        real = getattr(table_module, name)
        monkeypatch.setattr(
            table_module, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k)
        )
    grown = rec.add_items(NEW)
    assert grown.recommend(["u00"], k=1).height == 1
    assert not calls  # neither kinds inferred nor users encoded once more
    assert grown.data.user_features is rec.data.user_features
    assert grown.data.provides == rec.data.provides
    features = grown.model.spec.item_features
    assert len(grown.data.encoded_items(features)) == grown.data.n_items
    assert calls == ["encode"]
    again = Dataset.from_frame(grown.data.frame(), grown.data.item_table, grown.data.user_table)
    assert grown.data.histories.values.tolist() == rec.data.histories.values.tolist()
    assert again.n_users == grown.data.n_users


def test_columns_that_training_did_not_have_are_refused(rec: Recommender) -> None:
    for column, hint in (("genree", "did you mean 'genre'"), ("price", "leave it out")):
        with pytest.raises(DataError, match=f"column '{column}' is not in the item table of training.*{hint}"):
            rec.add_items(NEW.with_columns(pl.lit("x").alias(column)))
    with pytest.raises(DataError, match="none of the columns that the model uses: genre"):
        rec.add_items(NEW.select("item_id"))


def test_known_items_of_a_whole_catalogue_stay_as_they_are(rec: Recommender, tmp_path: Path) -> None:
    table = rec.data.item_table
    assert table is not None
    changed = table.select("item_id", genre=pl.lit("opera"))
    catalogue = pl.concat([changed, NEW.select("item_id", "genre")])
    grown, alone = rec.add_items(catalogue), rec.add_items(NEW)
    assert grown.data.items.ids.equals(alone.data.items.ids)
    assert_frame_equal(grown.recommend(["u02"], k=100), alone.recommend(["u02"], k=100))
    assert_frame_equal(grown.data.item_table.head(table.height), table)
    said = f"{table.height} of {table.height + 3} items are known already and stay as they are; update(items=...)"
    assert [note for note in grown.data.notes if said in note] == [grown.data.notes[len(rec.data.notes)]]

    same = grown.add_items(catalogue)  # the next morning
    assert same.data.n_items == grown.data.n_items
    assert same.model is grown.model
    known = [note for note in same.data.notes if "known already" in note]
    assert len(known) == 1
    assert known[0].startswith(f"{table.height + 3} of {table.height + 3} items are known already")
    same.save(tmp_path / "run")
    assert_frame_equal(
        Recommender.load(tmp_path / "run", models=MODELS).recommend(["u02"], k=9), same.recommend(["u02"], k=9)
    )

    updated, _ = rec.update(items=changed)  # what the note says changes them
    assert updated.data.item_table["genre"].unique().to_list() == ["opera"]


def test_bad_new_items(rec: Recommender, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item_id: repeated in 2 rows"):
        rec.add_items(pl.DataFrame({"item_id": ["n1", "n1"], "genre": ["drama"] * 2}))
    with pytest.raises(DataError, match="genre was learned as category and now holds list"):
        rec.add_items(pl.DataFrame({"item_id": ["n1"], "genre": [["drama"]]}))
    with pytest.raises(DataError, match="no column for item_id"):
        rec.add_items(pl.DataFrame({"genre": ["drama"]}))
    with pytest.raises(UnknownId, match="unknown item 'n1'"):
        rec.similar("n1")
    (tmp_path / "new.csv").write_text("item_id,genre\nn1,horror\n")
    assert rec.add_items(tmp_path / "new.csv").data.items.ids[-1] == "n1"


def test_a_model_without_features_leaves_the_card_as_it_was(parts, tmp_path: Path) -> None:
    Recommender.train(replace(parts.train, user_table=None), "popularity").save(tmp_path / "run")
    card = json.loads((tmp_path / "run" / CARD).read_text())
    assert set(card["spec"]) == {"n_users", "n_items", "rating_scale"}
    del card["data"]["kinds"]  # as an older palate wrote it
    card.pop("sha256")
    from palate.recommender.artifact_files import hash_of_card

    (tmp_path / "run" / CARD).write_text(json.dumps(card | {"sha256": hash_of_card(card)}))
    assert Recommender.load(tmp_path / "run").data.item_kinds == {}


def test_a_model_for_other_features_is_refused(parts) -> None:
    model = Tastes(TastesConfig(), replace(Tastes.spec_of(parts.train), user_features=None))
    with pytest.raises(ConfigError, match="Tastes was built for other features than this data's"):
        Recommender.train(parts.train, model)


def test_new_items_are_judged(rec: Recommender, parts) -> None:
    full = evaluate(rec.model, parts.test, COLD)
    assert set(full.slices) == {"all", "new_item"}
    assert len(full.exposure) == len(full.popularity) == parts.test.n_items
    assert full.exposure[parts.train.n_items :].sum() > 0
    new = evaluate(rec.model, parts.test, COLD, protocol=Protocol(candidates="new"))
    assert new.protocol.hash != full.protocol.hash
    assert new.exposure[: parts.train.n_items].sum() == 0
    assert new["recall@10"].value > 0.9 > full["recall@10"].value
    assert (
        np.isnan(evaluate(rec.model, parts.test, COLD, protocol=Protocol(candidates="full")).values["ndcg@10"]).sum()
        == 0
    )
    blind = evaluate(
        Recommender.train(parts.train, "popularity").model, parts.test, COLD, protocol=Protocol(candidates="new")
    )
    assert blind["recall@10"].value == 0
    assert rec.evaluate(parts.test, COLD)["recall@10"].value == full["recall@10"].value


def test_warm_items_are_judged_among_themselves(parts) -> None:
    data = Dataset.from_frame(parts.test.history.frame(), parts.test.item_table, parts.test.user_table)
    split = data.split("new-items", valid=0.1, test=0.1, others=0.2, seed=1)
    assert split.describe()["new_rows"][2] < 0.6
    model = Tastes(TastesConfig(), Tastes.spec_of(split.train))
    model.fit(split.train)
    found = {
        kind: evaluate(model, split.test, COLD, protocol=Protocol(candidates=kind)) for kind in ("full", "warm", "new")
    }
    n_items = split.train.n_items
    assert {"all", "warm", "new_item"} <= set(found["full"].slices)
    assert found["warm"].exposure[n_items:].sum() == 0
    assert found["new"].exposure[:n_items].sum() == 0
    assert (
        found["warm"].slices["warm"].estimates["recall@10"].value
        >= found["full"].slices["warm"].estimates["recall@10"].value
    )
    assert not found["warm"].slices["new_item"].values
    # What a model extended by hand is judged as is the same.
    known = model.spec.n_items
    more = split.test.encoded_items(model.spec.item_features).take(torch.arange(known, split.test.n_items))
    by_hand = evaluate(model.with_items(more), split.test, COLD)
    assert by_hand.values["recall@10"].tolist() == found["full"].values["recall@10"].tolist()
    assert by_hand.slices["new_item"].rows == found["full"].slices["new_item"].rows


def test_something_must_be_left_to_find(rec: Recommender, parts) -> None:
    with pytest.raises(
        DataError,
        match=r"candidates = 'warm': the 168 rows .* no items with training interactions; use 'full' or 'new'",
    ):
        evaluate(rec.model, parts.test, COLD, protocol=Protocol(candidates="warm"))
    known = parts.train.split("random", valid=0, test=0.2).test
    with pytest.raises(DataError, match=r"candidates = 'new': .* use 'full' or 'warm'"):
        evaluate(rec.model, known, COLD, protocol=Protocol(candidates="new"))


def test_new_people_are_judged_by_content() -> None:
    train = world().train
    data = Dataset.from_frame(train.frame(), train.item_table, train.user_table, item_kinds={"genre": "category"})
    parts = data.split("new-users", valid=0, test=0.2, given=0)
    model = Tastes(TastesConfig(), Tastes.spec_of(parts.train))
    model.fit(parts.train)
    found = evaluate(model, parts.test, ("recall@10",))
    assert found.routes == {route: float(route == "content") for route in ROUTES}
    assert "new_user" in found.slices
    popular = Recommender.train(parts.train, "popularity").evaluate(parts.test, ("recall@10",))
    assert found["recall@10"].value > 1.5 * popular["recall@10"].value


def test_the_validator_lists_new_items(rec: Recommender, parts) -> None:
    assert Validator(parts.valid, rec.model, "recall@10")(rec.model)["recall@10"] > 0.9
    assert Validator(parts.valid, rec.model, "recall@10")._protocol == Protocol(candidates="new")


def test_unknown_people_have_no_features_of_others(rec: Recommender) -> None:
    from palate.recommender.id_translation import from_users

    queries = from_users(rec.data, rec.model.spec, np.array([3, -1]))
    assert queries.features is not None
    assert queries.features.any_known.tolist() == [True, False]
    nobody = Queries(torch.tensor([-1]), Ragged.empty(1), features=nothing_known(rec.model.spec.user_features, 1))
    assert not rec.model.answerable(nobody).any()

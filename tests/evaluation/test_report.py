"""Reports and pictures: complete, escaped, one file, the same each time."""

from __future__ import annotations

import base64
import re
import struct
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from palate.errors import ConfigError, MissingExtra
from palate.evaluation.evaluate import evaluate
from palate.evaluation.plots import concentration, learning_curves, metric_bars
from palate.evaluation.protocol import Protocol
from palate.evaluation.render import Heading, Points, Text, markdown, page
from palate.evaluation.render import Table as Cells
from palate.evaluation.report import Report, content, save
from palate.training.train_run import Epoch, best_epoch
from tiny import Table, dataset, part

N_USERS, N_ITEMS = 60, 20
EVIL = '<script>alert("x")</script> | *a* [b](c) `d`'
EPOCHS = [
    Epoch(
        epoch=e,
        loss=1 / e,
        valid={"rmse": 1 + (e - 3) ** 2 / 20, "loss": 0.6 + (e - 3) ** 2 / 10},
        best=e <= 3,
        loss_name="squared error per rating",
    )
    for e in range(1, 6)
]


@pytest.fixture(scope="module")
def evaluations():
    rng = np.random.default_rng(0)
    train = dataset([(u, i, 3.0) for u in range(N_USERS) for i in (u % N_ITEMS, (u + 1) % N_ITEMS)])
    test = part(train, [(u, (u + 5) % N_ITEMS, float(1 + u % 5)) for u in range(N_USERS)] + [(999, 3, 3.0)])
    bad = rng.normal(size=(N_USERS, N_ITEMS))
    good = bad.copy()
    good[np.arange(N_USERS), (np.arange(N_USERS) + 5) % N_ITEMS] += 3
    found = {}
    for name, table, rates in (("bad", bad, True), (EVIL, good, False)):
        model = Table(table, rates=rates)
        model.fit(train)
        found[name] = evaluate(model, test, name=name, fit_seconds=1.0)
    return found


@pytest.fixture(scope="module")
def report(evaluations):
    return Report(title=f"A & B {EVIL}", evaluations=evaluations, records={"bad": EPOCHS, EVIL: []}, notes=(EVIL,))


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


class Tags(HTMLParser):
    """Counts tags, and checks that what opens also closes."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_safe_file(report, tmp_path):
    save(report, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", text)
    assert len(tags.images) == 3
    for image in tags.images:
        assert image["alt"]
        width, height = size(base64.b64decode(image["src"].split(",", 1)[1]))
        assert 300 < width < 3000
        assert 200 < height < 3000
    assert "A &amp; B &lt;script&gt;" in text


def test_markdown_names_its_pictures_and_keeps_its_tables_whole(report, tmp_path):
    save(report, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in re.findall(r"!\[[^]]*\]\((.*?)\)", text):
        assert (tmp_path / name).is_file()
    assert "<script>" not in text.replace("\\<script\\>", "")
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert len(set(columns)) <= 4  # each table has one width
    for block in re.split(r"\n\n", text):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_it_says_all_it_should(report, evaluations):
    text = markdown(report.title, list(content(report, pictures=False)))
    e = evaluations["bad"]
    assert e.protocol.hash in text
    best = evaluations[EVIL]["ndcg@10"]
    assert f"**{best.value:.4f} ({best.low:.4f} to {best.high:.4f})**" in text
    assert f"{e['rmse'].value:.4f} ({e['rmse'].low:.4f} to {e['rmse'].high:.4f})" in text
    assert " is better than bad on ndcg@10 by " in text
    assert "assumes that differences are symmetric" in text
    assert f"share of the catalogue of {N_ITEMS} items" in text
    assert "new user: 1 rows of 1 users" in text
    assert (
        "bad: epoch 3 of 5 kept; train loss 0.3333, valid loss 0.6000 (squared error per rating), valid rmse 1.0000"
        in text
    )
    for heading in ("Results", "Comparison", "Known and new users and items", "Recommended items", "Protocol"):
        assert f"## {heading}" in text


def test_models_are_ordered_by_the_headline_metric(evaluations):
    assert list(Report(title="", evaluations=evaluations).ordered()) == [EVIL, "bad"]
    by_error = Report(title="", evaluations=evaluations, metric="rmse").ordered()
    assert list(by_error) == ["bad", EVIL]  # the one without a value comes last


def test_each_member_of_a_blend_has_a_line_with_its_own_loss(evaluations):
    members = [replace(e, member="mf") for e in EPOCHS] + [
        Epoch(epoch=1, loss=5.0, member="multvae", loss_name="negative log-likelihood per item")
    ]
    text = markdown(
        "", list(content(Report(title="", evaluations=evaluations, records={"bad": members}), pictures=False))
    )
    assert "bad, mf: epoch 3 of 5 kept; train loss 0.3333, valid loss 0.6000 (squared error per rating)" in text
    last = "epoch 1 of 1 kept (the last; there was no validation); train loss 5.0000 (negative log-likelihood per item)"
    assert f"bad, multvae: {last}" in text


def test_one_model_alone(evaluations):
    blocks = list(content(Report(title="one", evaluations={"bad": evaluations["bad"]})))
    assert not any(isinstance(b, Heading) and b.text in ("Comparison", "Learning curves") for b in blocks)


def test_models_go_down_the_page_and_metrics_across_headline_first(evaluations):
    models = {f"model {i}": evaluations["bad"] for i in range(14)}
    report = Report(title="", evaluations=models, metric="hit@10")
    tables = [b for b in content(report, pictures=False) if isinstance(b, Cells)][:3]
    assert [row[0] for row in tables[0].rows] == list(models)
    assert [table.header[:3] for table in tables] == [
        ["accuracy", "hit@10", "ndcg@10"],
        ["beyond accuracy", "coverage@10", "gini@10"],
        ["ratings", "rmse", "mae"],
    ]
    assert sum(len(table.header) - 1 for table in tables) == len(evaluations["bad"].estimates)
    assert {len(table.rows) for table in tables} == {14}


def test_the_best_of_each_column_is_marked_and_models_without_ratings_are_not_in_their_table(evaluations):
    tables = list(content(Report(title="", evaluations=evaluations, metric="rmse"), pictures=False))[2:5]
    assert tables[0].header == ["ratings", "rmse", "mae"]
    assert [row[0] for row in tables[0].rows] == ["bad"]
    assert not tables[0].best
    lists = tables[1]
    assert [row[0] for row in lists.rows] == ["bad", EVIL]
    for column in range(1, len(lists.header)):
        metric = lists.header[column]
        better = max(("bad", EVIL), key=lambda name: evaluations[name].estimates[metric].value)
        assert (["bad", EVIL].index(better), column) in lists.best


def test_a_baseline(evaluations):
    text = markdown("", list(content(Report(title="", evaluations=evaluations, baseline="bad"), pictures=False)))
    assert " is better than bad on " in text


def test_different_protocols_are_refused(evaluations):
    train = dataset([(0, 1, 3.0), (1, 2, 3.0)])
    model = Table(np.eye(2))
    model.fit(train)
    other = evaluate(model, part(train, [(0, 2, 3.0)]), protocol=Protocol(metrics=("ndcg@5",)))
    with pytest.raises(ConfigError, match="one protocol"):
        Report(title="", evaluations={"bad": evaluations["bad"], "other": other})
    with pytest.raises(ConfigError, match="got none"):
        Report(title="", evaluations={})


def test_pictures_are_the_same_each_time(report, evaluations):
    assert metric_bars(evaluations, ["ndcg@10", "rmse"]) == metric_bars(evaluations, ["ndcg@10", "rmse"])
    assert learning_curves({"bad": EPOCHS}) == learning_curves({"bad": EPOCHS, "none": []})
    assert learning_curves({"bad": EPOCHS}) != learning_curves({"bad": EPOCHS[:4]})
    assert size(concentration(evaluations)) > (400, 300)


def test_curves_without_validation():
    assert size(learning_curves({"plain": [Epoch(epoch=1, loss=0.5), Epoch(epoch=2, loss=0.4)]})) > (400, 300)


def test_the_best_epoch():
    assert best_epoch(EPOCHS).epoch == 3
    assert best_epoch([Epoch(epoch=1, loss=1.0)]) is None
    assert best_epoch([]) is None


def test_renderers_escape_everything():
    blocks = [Heading(EVIL), Text(EVIL), Points([EVIL]), Cells([EVIL, "<i>"], [[EVIL, "1 (<b>0</b> to 2)"]])]
    html = page(EVIL, blocks)
    assert "<script>" not in html
    assert "<i>" not in html
    assert "<b>" not in html
    assert "1 <small>(&lt;b&gt;0&lt;/b&gt; to 2)</small>" in html
    text = markdown("new_item", [Text("a_b _c_ #1")])
    assert text == "# new_item\n\na_b \\_c\\_ \\#1\n"


def test_without_matplotlib_the_extra_is_named(evaluations, monkeypatch, report, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"plots need matplotlib: .* install "):
        metric_bars(evaluations, ["ndcg@10"])
    with pytest.raises(MissingExtra):
        save(report, tmp_path)
    assert list(content(report, pictures=False))  # words need no pictures

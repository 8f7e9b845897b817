"""Learning curves: both losses are labelled with what they measure, and members of a blend get panels of their own."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from palate.evaluation.plots import learning_curves
from palate.training.loop import Epoch

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

EPOCHS = [
    Epoch(1, 1.2, {"loss": 1.3, "ndcg@10": 0.1}, best=True, loss_name="squared error per rating"),
    Epoch(2, 0.9, {"loss": 1.1, "ndcg@10": 0.2}, best=True, loss_name="squared error per rating"),
]


def size(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])


def test_curves_are_labelled_with_the_name_of_the_loss() -> None:
    other = [replace(epoch, loss_name="binary cross-entropy per pair") for epoch in EPOCHS]
    assert learning_curves({"mf": EPOCHS}) == learning_curves({"mf": EPOCHS})
    assert learning_curves({"mf": EPOCHS}) != learning_curves({"mf": other})


def test_each_member_has_its_own_curves() -> None:
    members = [replace(epoch, member=member) for member in ("mf", "multdae") for epoch in EPOCHS]
    width, height = size(learning_curves({"blend": EPOCHS}))
    assert size(learning_curves({"blend": members})) == (width, 2 * height)

"""Attacks on the service: each gets what it must, and the service goes on without an unexpected error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import API, ATTACKS, Attack, Target, target


@pytest.fixture(scope="module")
def attacked(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(runs["ease"], tmp_path_factory.mktemp("attacked")) as found:
        yield found


@pytest.mark.parametrize(
    ("function", "right"), [entry[2:] for entry in ATTACKS], ids=[f"API{entry[0]}: {entry[1]}" for entry in ATTACKS]
)
def test_an_attack_gets_what_it_must(function: Attack, right: tuple[int, ...], attacked: Target) -> None:
    reply = function(attacked)
    assert reply.status in right, reply
    assert b"Traceback" not in reply.body
    if reply.status >= 400 and reply.headers.get("content-type", "").startswith("application/"):
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json["status"] == reply.status
    assert attacked.ask("GET", "/healthz/ready", key=None).status == 200


def test_no_attack_met_an_unexpected_error(attacked: Target) -> None:
    assert not attacked.server.events("failure")
    assert attacked.server.process.poll() is None


def test_every_group_is_tried() -> None:
    assert len(ATTACKS) >= 40
    assert {entry[0] for entry in ATTACKS} == set(API)
    assert len({entry[1] for entry in ATTACKS}) == len(ATTACKS)

"""Settings: what is written is read back, and every fault of a table of settings is reported, all at once."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.config import Training, check, from_dict, to_dict
from palate.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    dim: int = 8
    name: str | None = None

    def __post_init__(self) -> None:
        check(self, dim=self.dim > 0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    layers: tuple[int, ...] = (64, 32)
    scale: tuple[float, float] = (1.0, 5.0)
    inner: Inner = dataclasses.field(default_factory=Inner)
    mode: Literal["a", "b", 3] = "a"
    either: int | str = 0
    flag: bool = False
    needed: float


TRAININGS = st.builds(
    Training,
    epochs=st.integers(1, 10**6),
    batch_size=st.integers(1, 10**6),
    lr=st.floats(1e-9, 1e9),
    weight_decay=st.floats(0, 1e9),
    optimizer=st.sampled_from(["adam", "adagrad", "sgd"]),
    embeddings=st.sampled_from(["auto", "dense", "rowwise", "fbgemm"]),
    grad_clip=st.floats(0, 1e9),
    patience=st.integers(0, 100),
    monitor=st.text(max_size=9),
    seed=st.integers(0, 2**63 - 1),
)


@given(TRAININGS)
def test_what_is_written_is_read_back(training: Training) -> None:
    assert from_dict(Training, json.loads(json.dumps(to_dict(training)))) == training


@given(st.lists(st.integers(), max_size=4), st.one_of(st.none(), st.text()), st.one_of(st.integers(), st.text()))
def test_nested_settings_come_back(layers: list[int], name: str | None, either: int | str) -> None:
    config = Outer(layers=tuple(layers), inner=Inner(dim=3, name=name), mode=3, either=either, flag=True, needed=0.5)
    plain = json.loads(json.dumps(to_dict(config)))
    assert plain["inner"] == {"dim": 3, "name": name}
    assert from_dict(Outer, plain) == config


def test_defaults_fill_in() -> None:
    assert from_dict(Training, {}) == Training()
    assert from_dict(Outer, {"needed": 2}) == Outer(needed=2.0)
    assert isinstance(from_dict(Outer, {"needed": 2}).needed, float)


def test_a_misspelt_setting_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"^Training: unknown setting 'epoch'; did you mean 'epochs'\?$"):
        from_dict(Training, {"epoch": 3})
    with pytest.raises(ConfigError, match="unknown setting 'zzz'; known: dim, name"):
        from_dict(Inner, {"zzz": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "20"}, "epochs = '20' is not a whole number"),
        ({"epochs": 20.0}, "epochs = 20.0 is not a whole number"),
        ({"epochs": True}, "epochs = True is not a whole number"),
        ({"seed": None}, "seed = None is not a whole number"),
        ({"lr": "1e-3"}, "lr = '1e-3' is not a number"),
        ({"lr": False}, "lr = False is not a number"),
        ({"lr": 10**400}, "lr = 10+ is not a number"),
        ({"monitor": 3}, "monitor = 3 is not text"),
        ({"optimizer": "Adam"}, "optimizer = 'Adam' is not one of 'adam', 'adagrad', 'sgd'"),
        ({"optimizer": ["adam"]}, r"optimizer = \['adam'\] is not one of"),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^Training: {message}"):
        from_dict(Training, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 64}, "layers = 64 is not tuple"),
        ({"layers": ["64"]}, "layers = "),
        ({"layers": "64"}, "layers = "),
        ({"scale": [1, 2, 3]}, "scale = "),
        ({"inner": 3}, "inner: 3 is not a mapping of settings"),
        ({"inner": ["dim"]}, r"inner: \['dim'\] is not a mapping of settings"),
        ({"inner": {"dim": 0}}, "inner: dim = 0 is out of range"),
        (
            {"inner": {"dim": "x", "names": 1}},
            "(?s)2 faults.*inner: unknown setting 'names'.*inner: dim = 'x' is",
        ),
        ({"inner": {"name": 3}}, "inner: name = 3 is not text"),
        ({"mode": "c"}, "mode = 'c' is not one of 'a', 'b', 3"),
        ({"either": 1.5}, "either = 1.5 is not int | str"),
        ({"flag": 1}, "flag = 1 is not true or false"),
    ],
)
def test_faults_of_nested_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(" | ", r" \| ")):
        from_dict(Outer, {"needed": 1.0} | values)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^Outer: needed is missing$"):
        from_dict(Outer, {})
    with pytest.raises(ConfigError, match=r"(?s)^Outer: 2 faults.*flag = 'no' is not true or false.*needed is missing"):
        from_dict(Outer, {"flag": "no"})


def test_no_table_at_all() -> None:
    for values in ([], None, "epochs: 3"):
        with pytest.raises(ConfigError, match="is not a mapping of settings"):
            from_dict(Training, values)


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Training, {"epohcs": 3, "lr": "fast", "batch_size": 0, "seed": -1, "optimizer": "lion"})
    heading, *lines = str(caught.value).splitlines()
    assert heading == "Training: 5 faults"
    assert lines == [
        "  - unknown setting 'epohcs'; did you mean 'epochs'?",
        "  - lr = 'fast' is not a number",
        "  - optimizer = 'lion' is not one of 'adam', 'adagrad', 'sgd'",
        "  - batch_size = 0 is out of range",
        "  - seed = -1 is out of range",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("weight_decay", -1e-9),
        ("weight_decay", float("inf")),
        ("grad_clip", float("nan")),
        ("patience", -1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_values_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^Training: {field} = .* is out of range$"):
        from_dict(Training, {field: value})


def test_the_constructor_checks_choices_and_ranges_together() -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*epochs = 0 is out of range.*optimizer = 'x' is not one of"):
        dataclasses.replace(Training(), epochs=0, optimizer="x")  # type: ignore[arg-type]


def test_what_is_left_open_is_the_models_own() -> None:
    own = Training(epochs=7, batch_size=8, lr=0.9, patience=0)
    assert Training().filled(own) == own
    given = Training(epochs=1, lr=0.5, patience=4, weight_decay=0.1, seed=3)
    assert given.filled(own) == dataclasses.replace(given, batch_size=8)
    assert Training(patience=0).filled(dataclasses.replace(own, patience=9)).patience == 0
    assert to_dict(given.filled(own).complete()) == to_dict(dataclasses.replace(given, batch_size=8))
    with pytest.raises(ConfigError, match=r"^no value for batch_size"):
        given.complete()


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Training().lr = 1.0  # type: ignore[misc]

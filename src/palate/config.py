"""Settings: strict conversion between frozen, keyword-only dataclasses and plain dicts.

The string after a field is its help text, shown by the command line and the documentation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from palate.errors import ConfigError

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained. Models without gradient steps use only `seed`.

    None stands for the value of the model's `default_training`.
    """

    epochs: int | None = None
    """Maximum number of passes over the training rows. Defaults to the model's own."""
    batch_size: int | None = None
    """Rows in one step: interactions (plus negatives), or users or items. Defaults to the model's own."""
    lr: float | None = None
    """Learning rate of the optimizer. Defaults to the model's own."""
    weight_decay: float | None = None
    """Decoupled weight decay per step, of the weights that the step updates. Defaults to the model's own."""
    optimizer: Literal["adam", "adagrad", "sgd"] = "adam"
    """Optimizer; all three have a row-sparse form for embedding tables."""
    embeddings: Literal["auto", "dense", "rowwise", "fbgemm"] = "auto"
    """Updates of embedding tables: all rows (dense), rows of the batch (rowwise), or FBGEMM; auto decides by size."""
    device: str = "cpu"
    """Where training runs: cpu, cuda, cuda:1, mps, or auto for the accelerator if there is one."""
    matmul: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products in training; bfloat16 is faster on CPUs that support it (others use float32)."""
    grad_clip: float = 0.0
    """Maximum norm of all gradients together; 0 disables clipping."""
    patience: int | None = None
    """Epochs without improvement on `valid` before training stops; 0 never stops early. Defaults to the model's own."""
    monitor: str = "auto"
    """Metric on `valid` that selects the best epoch; auto is rmse for rating models and ndcg@10 for others."""
    seed: int = 0
    """Seed of initial weights, order, negatives and dropout."""

    def __post_init__(self) -> None:
        check(
            self,
            epochs=self.epochs is None or self.epochs >= 1,
            batch_size=self.batch_size is None or self.batch_size >= 1,
            lr=self.lr is None or 0 < self.lr < math.inf,
            weight_decay=self.weight_decay is None or 0 <= self.weight_decay < math.inf,
            grad_clip=0 <= self.grad_clip < math.inf,
            patience=self.patience is None or self.patience >= 0,
            seed=0 <= self.seed < 2**63,
        )

    def filled(self, default_training: Training) -> Training:
        """Replace None by the values of a model's `default_training`.

        Args:
            default_training: The model's settings.
        """
        return dataclasses.replace(self, **{name: getattr(default_training, name) for name in self._open})

    def complete(self) -> CompleteTraining:
        """Convert to settings without None.

        Raises:
            ConfigError: A setting is None.
        """
        if self._open:
            raise ConfigError(
                f"no value for {', '.join(self._open)}; `filled` takes them from the `default_training` of a model"
            )
        return CompleteTraining(**vars(self))

    @property
    def _open(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is None]


@dataclass(frozen=True, kw_only=True)
class CompleteTraining(Training):
    """A `Training` without None; the defaults are those of models whose training rows are interactions."""

    epochs: int = 50
    batch_size: int = 1024
    lr: float = 3e-3
    weight_decay: float = 0.0
    patience: int = 5


MAX_LAYERS = 64
"""Most layers of a network that settings may ask for."""
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def check(config: object, **rules: bool) -> None:
    """Check the fields of a config.

    Called in `__post_init__`: `check(self, lr=self.lr > 0)`. `Literal` fields are checked as well.

    Args:
        config: The config.
        rules: Name of a field -> whether its value is allowed.

    Raises:
        ConfigError: Lists all fields that break a rule.
    """
    faults = [f"{name} = {getattr(config, name)!r} is out of range" for name, ok in rules.items() if not ok]
    hints = _hints(type(config))
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        kind = hints[field.name]
        if typing.get_origin(kind) is Literal and getattr(config, field.name) not in typing.get_args(kind):
            choices = ", ".join(map(repr, typing.get_args(kind)))
            faults.append(f"{field.name} = {getattr(config, field.name)!r} is not one of {choices}")
    if faults:
        raise ConfigError.faults(type(config).__qualname__, faults)


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to JSON-able values; tuples become lists."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[C], values: Any) -> C:
    """Build a config from plain values.

    Args:
        cls: Class of the config.
        values: A dict of plain values; any other type is an error.

    Raises:
        ConfigError: Lists all unknown and missing keys, wrong types and values out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__qualname__}: {values!r} is not a mapping of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = _hints(cls)
    faults = [_unknown(key, fields) for key in values if key not in fields]
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            try:
                given[name] = _convert(values[name], hints[name])
            except (TypeError, ValueError, OverflowError):
                faults.append(f"{name} = {values[name]!r} is not {_name(hints[name])}")
            except ConfigError as error:
                faults += [f"{name}: {line}" for line in _lines(error)]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{name} is missing")
    if not faults:
        return cls(**given)
    try:
        cls(**given)  # values of the right type may still be out of range
    except ConfigError as error:
        faults += _lines(error)
    except TypeError:  # a field without a default is missing, which is already reported
        pass
    raise ConfigError.faults(cls.__qualname__, faults)


def _lines(error: ConfigError) -> list[str]:
    """The faults that an error lists, without its heading."""
    text = str(error)
    first, *rest = (text.partition(": ")[2] or text).split("\n  - ")
    return rest or [first]


def _unknown(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(str(key), list(known), n=1)
    return f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [v if type(v) in (str, int, float) else _plain(v) for v in value]
    return value


def _convert(value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for one in args:
            try:
                return _convert(value, one)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if origin is Literal:
        if value not in args:
            raise ValueError
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        if args[-1] is Ellipsis and {type(v) for v in value} == {args[0]}:  # a vocabulary may be long
            return tuple(value)
        if args[-1] is Ellipsis:
            return tuple(_convert(v, args[0]) for v in value)
        if len(value) != len(args):
            raise ValueError
        return tuple(_convert(v, a) for v, a in zip(value, args, strict=True))
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)  # type: ignore[arg-type]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise TypeError


def _name(kind: Any) -> str:
    if type(None) in typing.get_args(kind):
        return " or ".join(_name(one) for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))

"""The checker that the tests put on every function of palate: beartype, with jaxtyping's shapes of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

F = TypeVar("F", bound=Callable[..., object])

BEARTYPE = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float, as in PEP 484


def check(function: F) -> F:
    """The function, its annotations checked at each call.

    Left alone are the constructors of settings, since palate itself has to refuse a wrong value there, and functions
    with an annotation that beartype cannot check (a `typing.Protocol`, a union with a class of polars).
    """
    owner, _, name = function.__qualname__.rpartition(".")
    if name == "__init__" and (owner.endswith("Config") or owner == "Training"):
        return function
    try:
        return BEARTYPE(function)
    except BeartypeDecorHintException:
        return function

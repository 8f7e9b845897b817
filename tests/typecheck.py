"""The checker that the tests put on every function of palate: beartype, with jaxtyping's shapes of tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
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


WITH_SHAPES = jaxtyping.jaxtyped
CALLS = 20
"""Calls of a function that are checked in each test: the checks of all calls take a third of the time of the tests."""
test_number = 0
"""Counts the tests; `conftest.py` adds one before each."""


def jaxtyped(typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What the import hook decorates with in place of `jaxtyping.jaxtyped`: it checks the first calls in each test.

    The check of a function is built at its first call: to build all of them takes longer than most files of tests.
    """
    shaped = WITH_SHAPES(typechecker=typechecker)

    def decorate(thing: Any) -> Any:
        if isinstance(thing, type):
            return shaped(thing)
        seen, left, checked = -1, 0, None

        @functools.wraps(thing)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen, left, checked
            if seen != test_number:
                seen, left = test_number, CALLS
            if left:
                left -= 1
                checked = checked or shaped(thing)
                return checked(*args, **kwargs)
            return thing(*args, **kwargs)

        return call

    return decorate

"""Devices: where models train and answer, how data gets there, and how a device rounds the factors of matrix products.

A model lives on the CPU and visits another device to be trained; `Recommender.to` lets it live elsewhere. Batches are
drawn on the CPU, so that a seed gives the same batches on every device, and are moved whole. A model is asked from
anywhere: questions go to where it is, and answers come back to where the questions are.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from palate.errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
CPU = torch.device("cpu")
_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set by PyTorch at run time


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: cpu, cuda, cuda:1, mps or another of PyTorch's devices; auto is the accelerator if there is one, else cpu.
            An accelerator without a number is, in one of several processes, that of the process.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        name = str(CPU if accelerator is None else accelerator.type)
    if accelerator is not None and name == accelerator.type and os.environ.get("WORLD_SIZE", "1") != "1":
        place, count = os.environ.get("LOCAL_RANK", "0"), torch.accelerator.device_count()
        if int(place) >= count:
            raise ConfigError(
                f"device = {name!r}: more processes than the {count} devices of this machine; start at most {count} "
                "(torchrun --nproc-per-node)"
            )
        name = f"{name}:{place}"
    there = [str(CPU), *([] if accelerator is None else [accelerator.type])]
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device = {name!r} is no device of this machine; it has {', '.join(there)}") from error
    return device


def to_device(value: T, device: torch.device) -> T:
    """A value with all of its tensors on a device: a tensor, a dataclass, tuple, list or dict; others stay as they are.

    What holds no tensor on another device is returned itself, not as a copy.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        new = {field.name: to_device(getattr(value, field.name), device) for field in fields(value) if field.init}
        new = {name: each for name, each in new.items() if each is not getattr(value, name)}
        return replace(value, **new) if new else value
    if isinstance(value, tuple | list):
        parts = [to_device(part, device) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        table = {key: to_device(part, device) for key, part in value.items()}
        return value if all(table[key] is value[key] for key in value) else table  # type: ignore[return-value]
    return value


@contextmanager
def on_device(model: nn.Module, context: T, name: str) -> Iterator[T]:
    """A model on a device while the block runs, and afterwards where it was.

    Args:
        model: The model.
        context: Its fit context; the block gets it with its tensors on the device.
        name: As in `resolve_device`.
    """
    device, home = resolve_device(name), module_device(model)
    model.to(device)
    try:
        yield to_device(context, device)
    finally:
        model.to(home)


def module_device(module: nn.Module) -> torch.device:
    """The device of a module: that of its first parameter or buffer, or the CPU."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), CPU)


def asked_from_anywhere(function: F) -> F:
    """For functions of a model, queries and more: they run on the model's device, the result is on the queries'."""

    @functools.wraps(function)
    def call(model: Any, queries: Any, *given: Any, **named: Any) -> Any:
        home = queries.user.device
        there = module_device(model) if isinstance(model, nn.Module) else home
        if there == home:
            return function(model, queries, *given, **named)
        queries, given, named = to_device((queries, given, named), there)
        return to_device(function(model, queries, *given, **named), home)

    return call  # type: ignore[return-value]


def on_cpu(value: T) -> T:
    """A value with all of its tensors on the CPU, for what goes on with NumPy or other libraries."""
    return to_device(value, CPU)


@contextmanager
def bfloat16_matmul() -> Iterator[None]:
    """Round the factors of float32 matrix products to bfloat16 while the block runs; sums and results stay float32.

    It has an effect on CPUs with such products (AVX-512 BF16, AMX) and none on others. The setting is the process's.
    """
    before = _MATMUL.fp32_precision
    try:
        _MATMUL.fp32_precision = "bf16"
        yield
    finally:
        _MATMUL.fp32_precision = before

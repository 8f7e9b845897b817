"""Checks of tensors that come from a file: a model's code trusts its indices, and a file can hold any numbers.

Shapes and dtypes are those of a newly built model and are checked by `palate.recommender.artifact`. Here every
floating-point tensor must be finite. A module that keeps whole numbers, or a buffer whose size only fitting knows,
writes `check_buffers`, which calls the functions below for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from palate.errors import ArtifactError

MAX_COUNT = 2**62
"""Largest number of steps or batches that a buffer may count."""


@runtime_checkable
class HasDynamicBuffers(Protocol):
    """A module with buffers whose size only fitting knows."""

    dynamic_buffers: tuple[str, ...]


def dynamic_buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """The buffers of a module, and of the modules inside it, whose size only fitting knows: module, name, full name."""
    for place, part in model.named_modules():
        for name in part.dynamic_buffers if isinstance(part, HasDynamicBuffers) else ():
            yield part, name, f"{place}.{name}" if place else name


def resize_buffers(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the dynamic buffers of a model the sizes of the tensors of the same names."""
    for part, name, full in dynamic_buffers(model):
        if (found := tensors.get(full)) is not None:
            setattr(part, name, torch.empty_like(found))


@runtime_checkable
class ChecksBuffers(Protocol):
    """A module that checks its own buffers."""

    def check_buffers(self) -> None:
        """Raise an `ArtifactError` if a buffer holds numbers that the module's code cannot use."""


def check_tensors(model: nn.Module) -> None:
    """Check all tensors of a module and of the modules inside it.

    Raises:
        ArtifactError: Names the module and the tensor.
    """
    for name, tensor in model.state_dict().items():
        check_finite(name, tensor)
    for place, part in model.named_modules():
        try:
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                _check_batch_norm(part)
            elif isinstance(part, ChecksBuffers):
                part.check_buffers()
        except ArtifactError as error:
            raise ArtifactError(f"{f'{place}: ' if place else ''}{error}") from None


def _check_batch_norm(part: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Check the count and the variances of torch's batch normalisation."""
    if part.num_batches_tracked is not None and part.running_var is not None:
        check_range("num_batches_tracked", part.num_batches_tracked, 0, MAX_COUNT)
        if bool((part.running_var < 0).any()):
            raise ArtifactError("running_var holds negative numbers")


def check_finite(name: str, values: Tensor) -> None:
    """Check that a floating-point tensor holds no NaN and no infinity; other dtypes pass."""
    if values.is_floating_point() and values.numel():
        low, high = torch.aminmax(values.detach())  # NaN spreads to both; no temporary of the tensor's size.
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise ArtifactError(f"{name} holds NaN or infinite numbers")


def check_range(name: str, values: Tensor, low: int, high: int) -> None:
    """Check that all whole numbers are from `low` to `high`, both included."""
    if values.is_floating_point() or (values.numel() and (int(values.min()) < low or int(values.max()) > high)):
        raise ArtifactError(f"{name} holds numbers that are not whole numbers from {low} to {high}")


def check_indices(name: str, values: Tensor, below: int) -> None:
    """Check that all values are indices from 0 to `below - 1`."""
    check_range(name, values, 0, below - 1)


def check_ascending(name: str, values: Tensor) -> None:
    """Check that no value along the last dimension is smaller than the one before it."""
    if bool((values[..., 1:] < values[..., :-1]).any()):
        raise ArtifactError(f"{name} is not in ascending order")


def check_rows(name: str, values: Tensor, rows: int) -> None:
    """Check that a matrix whose width only fitting knows has its number of rows."""
    if values.ndim != 2 or len(values) != rows:
        raise ArtifactError(f"{name} has the shape {tuple(values.shape)}; it needs {rows} rows")


def check_sparse(offsets: Tensor, index: Tensor, value: Tensor, rows: int, columns: int) -> None:
    """Check a sparse matrix kept in three tensors, whose entries SciPy reads without a check.

    Args:
        offsets: Row r has the entries `offsets[r]` to `offsets[r + 1] - 1`, `[rows + 1]`.
        index: Column of each entry, `[entries]`.
        value: Value of each entry, `[entries]`.
        rows, columns: Shape of the matrix.
    """
    if offsets.shape != (rows + 1,) or index.ndim != 1 or index.shape != value.shape:
        raise ArtifactError(
            f"a sparse matrix of {rows} rows has {len(offsets)} offsets, {len(index)} indices and {len(value)} values"
        )
    check_indices("the column of a sparse matrix", index, columns)
    check_finite("the values of a sparse matrix", value)
    check_range("the offsets of a sparse matrix", offsets, 0, len(index))
    check_ascending("the offsets of a sparse matrix", offsets)
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(index):
        raise ArtifactError(f"the offsets of a sparse matrix do not run from 0 to its {len(index)} entries")

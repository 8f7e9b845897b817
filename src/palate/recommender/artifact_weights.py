"""The tensors of an artifact: names, dtypes and shapes are compared with the model's before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model as load_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from palate.data.dataset import Spec
from palate.errors import ArtifactError, PalateError
from palate.models.base import Model
from palate.models.buffers import check_tensors, dynamic_buffers

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""Dtypes by their names in safetensors files; others, for example complex numbers, are in no model."""


def load_model(model_class: type[Model], config: Any, spec: Spec, file: Path) -> Model:
    """Build a model and read its tensors.

    Args:
        model_class: The model's class.
        config, spec: What it was built from.
        file: A safetensors file.

    Raises:
        ArtifactError: The file lacks a tensor of the model or holds another, one has another shape or dtype, or holds
            numbers that the model cannot use (`palate.models.buffers`).
    """
    if (empty := _without_memory(model_class, config, spec)) is not None:
        _check_header(empty, file)
    model = model_class(config, spec)
    _check_header(model, file)
    load_tensors(model, file)
    check_tensors(model)
    model.eval()
    model.refresh()
    return model


class _WithoutNormal(TorchFunctionMode):
    """Tensors without memory need no random numbers; for them torch would import its compiler, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _without_memory(model_class: type[Model], config: Any, spec: Spec) -> Model | None:
    """The model with tensors that take no memory: a forged setting cannot ask for more than the file holds.

    None for a model whose `__init__` computes with the values of its tensors.
    """
    try:
        with torch.device("meta"), _WithoutNormal():
            return model_class(config, spec)
    except PalateError:
        raise
    except (NotImplementedError, RuntimeError, TypeError):
        return None


def _check_header(model: Model, file: Path) -> None:
    """Compare what the file says about its tensors with the model's tensors; reads no numbers."""
    expected, any_size, faults = model.state_dict(keep_vars=True), {full for _, _, full in dynamic_buffers(model)}, []
    with safe_open(file, framework="pt") as found:
        names = set(found.keys())
        for name in sorted(names & set(expected)):
            about = found.get_slice(name)
            shape, dtype = tuple(about.get_shape()), DTYPES.get(about.get_dtype())
            if dtype != expected[name].dtype:
                faults.append(f"{name} is of dtype {about.get_dtype()}, not {expected[name].dtype}")
            elif shape != expected[name].shape and not (name in any_size and len(shape) == expected[name].ndim):
                faults.append(f"{name} has shape {shape}, not {tuple(expected[name].shape)}")
    faults += [f"{name} is not a tensor of this model" for name in sorted(names - set(expected))]
    faults += [f"{name} is missing" for name in sorted(set(expected) - names - _shared_names(expected, names))]
    if faults:
        raise ArtifactError.faults(file.name, faults[:20])


def _shared_names(expected: dict[str, Tensor], names: set[str]) -> set[str]:
    """Other names of tensors that the file holds: one tensor is saved once."""
    saved = {id(expected[name]) for name in names & set(expected)}
    return {name for name, tensor in expected.items() if id(tensor) in saved}

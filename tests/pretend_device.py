"""A device that is not there: tensors with real values that claim to lie on `pretend:0`.

Every operation runs on the CPU. As on a GPU, tensors of two devices do not go together (tensors without dimensions and
indices of the CPU excepted), NumPy cannot read them, and a generator of the CPU draws nothing there. Unlike fake
tensors, which have no values, this one also runs operations whose result has a size that only the values decide.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
PRETEND = torch.device("pretend:0")
# What `torch.random.fork_rng()` asks of every device: nothing is drawn on this one.
_backend: Any = torch.pretend  # type: ignore[attr-defined]  # the registration makes it
_backend.get_rng_state = lambda device=None: torch.get_rng_state()
_backend.set_rng_state = lambda state, device=None: None
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operations whose indices may lie on the CPU."""
VALUES = ("_local_scalar_dense", "is_same_size", "equal")
"""Operations that give plain values."""


class Pretended(Tensor):
    """A tensor on the device; `inner` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=PRETEND,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretended({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """While it is on, tensors can be made on the device and moved to it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _gru_cell(
    input_BG: Tensor, hidden_BG: Tensor, before_BH: Tensor, input_bias_G: Tensor, hidden_bias_G: Tensor
) -> tuple[Tensor, Tensor]:
    """A step of a GRU, which PyTorch has no kernel of its own for on CPUs; and what its backward pass needs."""
    input_r, input_z, input_n = (input_BG + input_bias_G).chunk(3, 1)
    hidden_r, hidden_z, hidden_n = (hidden_BG + hidden_bias_G).chunk(3, 1)
    r, z = torch.sigmoid(input_r + hidden_r), torch.sigmoid(input_z + hidden_z)
    n = torch.tanh(input_n + r * hidden_n)
    return n + z * (before_BH - n), torch.cat([r, z, n, before_BH, hidden_n], 1)


def _gru_cell_backward(after_BH: Tensor, kept_BK: Tensor, has_bias: bool) -> tuple[Tensor, ...]:
    r, z, n, before, hidden_n = kept_BK.chunk(5, 1)
    to_n = after_BH * (1 - z) * (1 - n * n)
    to_z = after_BH * (before - n) * z * (1 - z)
    to_r = to_n * hidden_n * r * (1 - r)
    to_input, to_hidden = torch.cat([to_r, to_z, to_n], 1), torch.cat([to_r, to_z, to_n * r], 1)
    return to_input, to_hidden, after_BH * z, to_input.sum(0), to_hidden.sum(0)


KERNELS = {"_thnn_fused_gru_cell": _gru_cell, "_thnn_fused_gru_cell_backward": _gru_cell_backward}


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    if name == "copy_":
        _inner(args[0]).copy_(_inner(args[1]))
        return args[0]
    wanted = kwargs.get("device")
    ends_there = bool(there) if wanted is None else torch.device(wanted).type == PRETEND.type
    if name != "_to_copy":
        _refuse_mixture(function, name, args, tensors, there)
        if ends_there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{function}: a generator of the CPU draws nothing on {PRETEND}")
    plain_args, plain = tree_map(_inner, args), tree_map(_inner, kwargs)
    if wanted is not None and ends_there:
        plain["device"] = torch.device("cpu")
    found = KERNELS.get(name, function)(*plain_args, **plain)
    if name in VALUES or not ends_there:
        return found
    found = tree_map(lambda value: Pretended(value) if isinstance(value, Tensor) else value, found)
    alike = there and name not in ("_to_copy", *KERNELS)
    return return_and_correct_aliasing(function, args, kwargs, found) if alike else found


def _refuse_mixture(function: Any, name: str, args: Any, tensors: list[Tensor], there: list[Pretended]) -> None:
    here = [tensor for tensor in tensors if not isinstance(tensor, Pretended) and tensor.dim() > 0]
    if name in INDEXED and isinstance(args[0], Pretended):
        indices = tree_leaves(args[1])
        here = [tensor for tensor in here if not any(tensor is index for index in indices)]
    if there and here:
        raise RuntimeError(f"{function}: expected all tensors on one device, found {PRETEND} and cpu")

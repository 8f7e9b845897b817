"""FBGEMM's fused row-wise Adagrad for one table on CPU: adds up repeated rows and moves them in one pass.

Only the kernel is FBGEMM's. The lookup stays `nn.Embedding`'s own, which checks its indices (the kernel does not), and
weight and state stay palate's tensors, so that scores, saved weights and checkpoints do not know about it. Several
lookups of a table in one step move it once, by their sum, as the portable path does.

Legend: B indices, D width of the table.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from palate.config import CompleteTraining
from palate.errors import ConfigError
from palate.extras import missing_extra


class FusedAdagrad:
    """The step of one table.

    Args:
        weight: `[rows, D]`, moved in place.
        square: `[rows]`, the accumulator, moved in place; None for optimizers without one, which are refused.
        config: `lr`; weight decay is the caller's, for the kernel has only the coupled one on CPU.
        eps: Added to the root of the accumulator.

    Raises:
        ConfigError: The optimizer is not adagrad, the one rule it is used for, or the weight is not on the CPU.
        MissingExtra: FBGEMM is not installed, or does not fit the installed torch.
    """

    def __init__(self, weight: Tensor, square: Tensor | None, config: CompleteTraining, eps: float) -> None:
        if square is None:
            raise ConfigError(
                f"embeddings = 'fbgemm' goes with optimizer = 'adagrad', not {config.optimizer!r}: "
                "name that optimizer, or embeddings = 'rowwise'"
            )
        if weight.device.type != "cpu":
            raise ConfigError(
                f"embeddings = 'fbgemm' runs on the CPU only, and device is {str(weight.device)!r}: name device = "
                "'cpu', or embeddings = 'rowwise'"
            )
        rows, width = weight.shape
        self._kernel = require_fbgemm()
        self._flat = weight.detach().view(-1)
        self._first = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
        self._columns = torch.tensor([0, width], dtype=torch.int32)
        self._rows = torch.tensor([0, rows])
        self._bits = rows.bit_length()
        self._square = square
        self._lr = torch.tensor(config.lr)
        self._eps = eps

    def __call__(self, index_B: Tensor, gradient_BD: Tensor) -> None:
        """Move the rows `index_B`, which may repeat, by their summed gradients."""
        placement, offset = self._first
        self._kernel(
            gradient_BD.contiguous(),
            self._flat,
            placement,
            offset,
            self._columns,
            gradient_BD.shape[1],
            self._rows,
            self._bits,
            index_B.contiguous(),
            torch.arange(len(index_B) + 1),
            0,  # sum over bags, here of one index each
            torch.empty(0),
            False,
            self._square,
            placement,
            offset,
            self._lr,
            self._eps,
        )


def require_fbgemm() -> Any:
    """FBGEMM's kernel.

    Raises:
        MissingExtra: FBGEMM is not installed, or does not fit the installed torch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fbgemm_gpu  # noqa: F401
        return torch.ops.fbgemm.split_embedding_backward_codegen_rowwise_adagrad_cpu
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        need = f"needs FBGEMM for CPU, which is not installed or does not fit this torch ({error})"
        raise missing_extra(f"embeddings = 'fbgemm' {need}", "fast", "choose embeddings = 'rowwise'") from error

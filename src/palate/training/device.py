"""The device of training steps: how they round the factors of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set by PyTorch at run time


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

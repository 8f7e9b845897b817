"""matmul(): what a training step's matrix products round their factors to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PRODUCTS: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set by PyTorch at run time


@contextmanager
def matmul(factors: str) -> Iterator[None]:
    """Products of float32 matrices, while the block runs; sums and results stay float32.

    Args:
        factors: bfloat16 rounds what is multiplied, on a CPU that has such products (AVX-512 BF16, AMX), and changes
            nothing on others; float32 leaves things as they are. The setting is the process's.
    """
    before = _PRODUCTS.fp32_precision
    try:
        if factors == "bfloat16":
            _PRODUCTS.fp32_precision = "bf16"
        yield
    finally:
        _PRODUCTS.fp32_precision = before

"""The tests check the annotations of palate's functions, shapes of tensors included."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from palate.data.dataset import Spec
from palate.models.mf.ials import IALS, IALSConfig
from tiny import queries


@pytest.mark.parametrize("items", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64), [0, 1]])
def test_a_wrong_type_or_shape_is_an_error(items: object) -> None:
    model = IALS(IALSConfig(dim=2), Spec(n_users=3, n_items=4))
    with pytest.raises(jaxtyping.TypeCheckError, match="items"):
        model.score(queries(3), items)  # type: ignore[arg-type]

"""vbpr: the score is the sum of its parts, and a step reads a bounded number of items."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palate.config import Training
from palate.data.dataset import Queries
from palate.data.features.schema import FeatureBatch
from palate.models.content.vbpr import VBPR, FrozenContent, VBPRConfig, encode_some
from palate.testing import planted


def fitted(content: Literal["frozen", "trained"], **settings: Any) -> VBPR:
    data = planted().train
    model = VBPR(VBPRConfig(dim=8, content_dim=4, content=content, **settings), VBPR.spec_of(data))
    model.fit(data, Training(epochs=6, batch_size=256, lr=0.03))
    return model


@pytest.mark.parametrize("content", ["frozen", "trained"])
def test_the_score_is_the_sum_of_its_parts(content: Literal["frozen", "trained"]) -> None:
    model, data = fitted(content), planted().train
    features = model.spec.item_features
    assert features is not None
    encoded, encoder = data.encoded_items(features), model.encoder
    read = model._encode(encoder.vectors(encoded) if isinstance(encoder, FrozenContent) else encoded)
    person = model.user.weight[5]
    ids = model.item.weight @ person[:8] + model.item_bias.weight[:, 0]
    expected = ids + read[:, :4] @ person[8:] + read[:, 4]
    found = model.score(data.queries(np.array([5]), model.spec))[0]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_history_is_folded_in_near_the_trained_person() -> None:
    model, data = fitted("trained"), planted().train
    known = data.queries(np.arange(160), model.spec)
    strangers = Queries(torch.full((160,), -1), known.history)
    best, found = (model.score(asked).topk(10).indices % 4 for asked in (known, strangers))
    taste = torch.arange(160).unsqueeze(1) % 4
    assert float((found == taste).float().mean()) > 0.9 * float((best == taste).float().mean())


class Counting(nn.Module):
    """An encoder that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.seen = nn.Embedding(80, 2), 0

    def forward(self, encoded: FeatureBatch) -> Tensor:
        self.seen += len(encoded)
        return self.table(encoded.categories[:, 0])  # type: ignore[no-any-return]


def test_a_step_reads_so_many_items_and_keeps_the_rest() -> None:
    encoder = Counting().train()
    items = FeatureBatch(
        numbers=torch.zeros(80, 0), known=torch.zeros(80, 0, dtype=torch.bool), categories=torch.arange(80)[:, None]
    )
    kept = torch.zeros(80, 2)
    item = torch.arange(10, 50)
    found = encode_some(encoder, items, kept, item, 15)
    assert encoder.seen == 15
    fresh = (found != 0).any(1)
    assert int(fresh.sum()) == 15
    assert torch.equal(found[fresh], encoder.table.weight[item[fresh]])
    assert torch.equal(kept[item], found.detach())
    found.sum().backward()
    assert encoder.table.weight.grad is not None
    assert int(encoder.table.weight.grad.any(1).sum()) == 15

"""ItemVariants: one item with some of its features unknown, as new items that follow those a model knows.

The model encodes the masked features as it encodes new items (`Model.with_items`). If it also knows the item by its id
(an embedding of its own, an offset from what its content predicts), that part is kept: each row that the model stores
of the item changes by what masking changes in the encoding, stored + encoded(masked) - encoded(unmasked).

Legend: U variants, P players.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palate.explanation.maskable_features import MaskableFeatures
from palate.models.base import Model


class ItemVariants:
    """One item with some of its features masked, for a model that scores new items.

    Args:
        model: Fitted.
        item: Item index.
        features: The item's features.
    """

    def __init__(self, model: Model, item: int, features: MaskableFeatures) -> None:
        self.model, self.item, self.features = model, item, features
        self._unmasked = self._with_variants(torch.ones(1, len(features.players), dtype=torch.bool))

    def __call__(self, mask_UP: Tensor) -> Model:
        """The model with U more items, the last ones: the item with the players on that each mask holds."""
        larger, first = self._with_variants(mask_UP), self.model.spec.n_items
        stored, unmasked = dict(self.model.named_buffers()), dict(self._unmasked.named_buffers())
        for name, rows in larger.named_buffers():
            before = stored.get(name)
            if before is None or rows is before or "fallback." in name:
                continue
            if rows.is_floating_point() and rows.dim() and len(rows) == first + len(mask_UP):
                rows[first:] += before[self.item] - unmasked[name][-1]
        return larger

    def _with_variants(self, mask_UP: Tensor) -> Model:
        variants = self.features.variants(mask_UP)
        assert variants is not None  # features with players have a row
        return self.model.with_items(variants)

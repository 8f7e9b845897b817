"""ImageCNN: pixels -> vectors by a small residual net, and the changes that pictures go through while training.

stem     a 5 x 5 convolution; its stride brings a poster of 96 x 144 to 24 x 36
blocks   h + conv(relu(norm(conv(h)))), normed; each but the first halves height and width and widens the channels
head     W mean(h) + V [mean(g), std(g), ..., std(h)], over all places; g are the maps of stem and blocks before h

Residual blocks as in He, Zhang, Ren, Sun 2016; norms by groups (Wu and He 2018), which do not depend on who else is in
a batch. V reads what the earlier maps are like on the whole, colours and textures: from a few thousand pictures more is
learned of them than of shapes (decision 16). `feature_map` is the last h, what class activation maps are made of.

Legend: N images, C channels, H height, W width, D width of the output.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.encoded import Encoded, Images

CHANNELS = (24, 48, 96)
"""Of the blocks."""
LEAST = 1e-5
"""Added to a map's variance, whose root has no slope at 0."""
SHIFT, JITTER = 0.06, 0.2
"""How far a picture is moved at most (share of its size), and how far brightness and contrast change."""


class ImageCNN(nn.Module):
    """Images to vectors.

    Args:
        size: Channels, height, width.
        dim: Width of the vectors.
    """

    def __init__(self, size: tuple[int, ...], dim: int) -> None:
        super().__init__()
        channels, height, width = size
        stride = 4 if min(height, width) >= 64 else 2 if min(height, width) >= 24 else 1
        self.stem = nn.Conv2d(channels, CHANNELS[0], 5, stride, padding=2)
        self.stem_norm = nn.GroupNorm(8, CHANNELS[0])
        pairs = zip((CHANNELS[0], *CHANNELS[:-1]), CHANNELS, strict=True)
        self.blocks = nn.ModuleList(
            Block(before, after, 1 + (number > 0)) for number, (before, after) in enumerate(pairs)
        )
        before = CHANNELS[0] + sum(CHANNELS[:-1])
        self.head = nn.Linear(CHANNELS[-1], dim)
        self.texture = nn.Linear(2 * before + CHANNELS[-1], dim, bias=False)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Of stem and blocks, of pixels uint8 `[N, C, H, W]` (or float32 from 0 to 255)."""
        h = pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        found = [F.relu(self.stem_norm(self.stem(h)))]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last map, float32 `[N, C, H', W']`."""
        return self.maps(pixels)[-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, D]`."""
        *before, last = self.maps(pixels)
        means = [h.mean((2, 3)) for h in before]
        deviations = [h.var((2, 3), correction=0).add(LEAST).sqrt() for h in (*before, last)]
        vector_ND: Tensor = self.head(last.mean((2, 3))) + self.texture(torch.cat([*means, *deviations], 1))
        return vector_ND


class Block(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        before, after: Channels in and out.
        stride: Of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(2))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, after, H / stride, W / stride]`."""
        inner = self.second(F.relu(self.norms[0](self.first(h))))
        return F.relu(self.shortcut(h) + self.norms[1](inner))


def augmented(encoded: Encoded, rng: torch.Generator) -> Encoded:
    """The same rows with their pictures mirrored, moved and of other light, by chance.

    Args:
        encoded: Rows; what is not a picture stays as it is.
        rng: All chance comes from it.
    """
    if not encoded.images:
        return encoded
    return replace(encoded, images={name: _augmented(images, rng) for name, images in encoded.images.items()})


def _augmented(images: Images, rng: torch.Generator) -> Images:
    there = (images.row >= 0).nonzero().squeeze(1)
    row = torch.full_like(images.row, -1)
    row[there] = torch.arange(len(there))
    pixels = torch.from_numpy(images.pixels[images.row[there].numpy()])
    return Images(augment(pixels, rng).numpy() if len(there) else np.asarray(pixels), row)


def augment(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures uint8 `[N, C, H, W]`, each mirrored with chance 1/2, moved (its edge repeated), brighter or darker, of
    more or less contrast."""
    count, _, height, width = pixels.shape
    chance = torch.rand(5, count, generator=rng)
    rows = _places(height, chance[0])
    columns = _places(width, chance[1])
    columns = torch.where(chance[2].unsqueeze(1) < 0.5, columns.flip(1), columns)
    moved = pixels.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    contrast, light = ((1 + JITTER * (2 * share - 1)).view(-1, 1, 1, 1) for share in (chance[3], chance[4]))
    changed = (moved.float() - 127.5) * contrast + 127.5 * light
    return changed.clamp(0, 255).round().byte().permute(0, 3, 1, 2)


def _places(size: int, chance: Tensor) -> Tensor:
    """For each picture the row (or column) that comes to each place, `[N, size]`."""
    most = max(1, round(SHIFT * size))
    shift = (chance * (2 * most + 1)).long() - most
    return (torch.arange(size) + shift.unsqueeze(1)).clamp(0, size - 1)

"""ImageCNN: images -> vectors by a small residual network; and data augmentation for its training images.

stem     a 5 x 5 convolution; its stride reduces a poster of 96 x 144 to 24 x 36
blocks   relu(h + norm(conv(relu(norm(conv(h)))))); each but the first halves height and width and widens the channels
head     W mean(h) + V [mean(g), std(g), ..., std(h)], over all positions; g are the maps of stem and blocks before h

Residual blocks as in He, Zhang, Ren, Sun 2016, with group normalisation (Wu and He 2018), which does not depend on the
other images of a batch. V reads the statistics of the earlier maps, that is colours and textures: a few thousand images
teach more about these than about shapes (decision 16). `feature_map` is the last h, which class activation maps use.

Legend: N images, C channels, H height, W width, D width of the output.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.features.schema import FeatureBatch, Images

CHANNELS = (24, 48, 96)
"""Channels of the blocks."""
NORM_GROUPS = 8
"""Groups of each group normalisation."""
VARIANCE_EPSILON = 1e-5
"""Added to a map's variance, because the square root has no gradient at 0."""
MAX_SHIFT, MAX_JITTER = 0.06, 0.2
"""Augmentation: largest shift, as a share of the image's size; largest relative change of brightness and contrast."""


class ImageCNN(nn.Module):
    """Encodes images by a convolutional network.

    Args:
        size: Channels, height and width of the images.
        dim: Width of the vectors.
    """

    def __init__(self, size: tuple[int, ...], dim: int) -> None:
        super().__init__()
        channels, height, width = size
        stride = 4 if min(height, width) >= 64 else 2 if min(height, width) >= 24 else 1
        self.stem = nn.Conv2d(channels, CHANNELS[0], 5, stride, padding=2)
        self.stem_norm = nn.GroupNorm(NORM_GROUPS, CHANNELS[0])
        pairs = zip((CHANNELS[0], *CHANNELS[:-1]), CHANNELS, strict=True)
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, 1 + (number > 0)) for number, (before, after) in enumerate(pairs)
        )
        before = CHANNELS[0] + sum(CHANNELS[:-1])
        self.head = nn.Linear(CHANNELS[-1], dim)
        self.texture = nn.Linear(2 * before + CHANNELS[-1], dim, bias=False)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps of stem and blocks, from pixels uint8 `[N, C, H, W]` (or float32 from 0 to 255)."""
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
        deviations = [h.var((2, 3), correction=0).add(VARIANCE_EPSILON).sqrt() for h in (*before, last)]
        vector_ND: Tensor = self.head(last.mean((2, 3))) + self.texture(torch.cat([*means, *deviations], 1))
        return vector_ND


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut.

    Args:
        before, after: Input and output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(NORM_GROUPS, after) for _ in range(2))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, h: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, after, H / stride, W / stride]`."""
        inner = self.second(F.relu(self.norms[0](self.first(h))))
        return F.relu(self.shortcut(h) + self.norms[1](inner))


def augmented(encoded: FeatureBatch, rng: torch.Generator) -> FeatureBatch:
    """The same rows with randomly flipped, shifted and re-lit images.

    Args:
        encoded: The rows; columns that are not images are unchanged.
        rng: Source of randomness.
    """
    if not encoded.images:
        return encoded
    return replace(encoded, images={name: _augmented_images(images, rng) for name, images in encoded.images.items()})


def _augmented_images(images: Images, rng: torch.Generator) -> Images:
    known = (images.row >= 0).nonzero().squeeze(1)
    row = torch.full_like(images.row, -1)
    row[known] = torch.arange(len(known), device=row.device)
    pixels = torch.from_numpy(images.pixels[images.row[known].cpu().numpy()])
    return Images(augment(pixels, rng).numpy() if len(known) else np.asarray(pixels), row)


def augment(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Images uint8 `[N, C, H, W]`, each flipped with probability 1/2, shifted (the edge is repeated) and changed in
    brightness and contrast."""
    count, _, height, width = pixels.shape
    chance = torch.rand(5, count, generator=rng)
    rows = _shifted_positions(height, chance[0])
    columns = _shifted_positions(width, chance[1])
    columns = torch.where(chance[2].unsqueeze(1) < 0.5, columns.flip(1), columns)
    moved = pixels.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    contrast, light = ((1 + MAX_JITTER * (2 * share - 1)).view(-1, 1, 1, 1) for share in (chance[3], chance[4]))
    changed = (moved.float() - 127.5) * contrast + 127.5 * light
    return changed.clamp(0, 255).round().byte().permute(0, 3, 1, 2)


def _shifted_positions(size: int, chance: Tensor) -> Tensor:
    """The row (or column) of each image that is moved to each position, `[N, size]`."""
    most = max(1, round(MAX_SHIFT * size))
    shift = (chance * (2 * most + 1)).long() - most
    return (torch.arange(size) + shift.unsqueeze(1)).clamp(0, size - 1)

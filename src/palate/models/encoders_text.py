"""Texts -> vectors: TextCNN reads words in their order, Bag counts them.

TextCNN is that of Kim 2014, "Convolutional neural networks for sentence classification": word vectors, filters over 3,
4 and 5 words, relu, each filter's maximum over the text, dropout, a dense layer.

Legend: N rows, L words, W width of a word, F filters, D width of the output, T values of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.encoded import Column
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models.normal_equations import like_lengths

WIDTHS = (3, 4, 5)
"""Words that a filter of TextCNN sees."""
FIRST = 0.01
"""Standard deviation of words' first vectors."""
PADDED = 2**14
"""Words of a block of texts, padding included."""


class Words(nn.Embedding):
    """A vector for each word or tag, small at first.

    A rare one hardly moves from where it began, and is all that many a new item consists of: begun at the unit variance
    of `nn.Embedding` it would be noise louder than what was learned.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=FIRST)
        self._fill_padding_idx_with_zero()


class Bag(nn.Module):
    """Values to a vector: the sum of a learned vector for each, by TF-IDF weights of length 1.

    Args:
        column: Its `values` and `idf`; where it has no idf, all weigh the same.
        dim: Width.
    """

    idf: Tensor

    def __init__(self, column: Column, dim: int) -> None:
        super().__init__()
        size = len(column.values) + 1
        self.table = Words(size, dim)
        # What training did not hold is rarer than all it held.
        idf = torch.tensor([max(column.idf), *column.idf]) if column.idf else torch.ones(size)
        self.register_buffer("idf", idf, persistent=False)

    def forward(self, values: Ragged) -> Tensor:
        """`[N, D]`."""
        size = len(self.idf)
        key_T, count_T = torch.unique(values.row_of_value * size + values.values, return_counts=True)
        row_T, value_T = key_T // size, key_T % size
        weight_T = (1 + count_T.float().log()) * self.idf[value_T].clamp(min=1e-6)
        square_N = torch.zeros(len(values)).index_add(0, row_T, weight_T.square())
        weight_T = weight_T / square_N.sqrt()[row_T]
        vector_ND = torch.zeros(len(values), self.table.embedding_dim)
        return vector_ND.index_add(0, row_T, self.table(value_T) * weight_T.unsqueeze(1))


class TextCNN(nn.Module):
    """Texts to vectors.

    Args:
        vocabulary: The known words; token 1 is the first, token 0 a word that is not among them.
        dim: Width of the vectors.
        words: Width of a word's vector.
        filters: Of each width in `WIDTHS`.
        dropout: Share of the filters' maxima dropped while training.
    """

    def __init__(
        self, vocabulary: Sequence[str], dim: int, *, words: int = 64, filters: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        # Row 0 pads, row 1 is an unknown word.
        self.table = Words(len(vocabulary) + 2, words, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(words, filters, width) for width in WIDTHS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(WIDTHS), dim)

    def forward(self, text: Ragged) -> Tensor:
        """`[N, D]`; no text may be empty."""
        return self.head(self.dropout(self.maxima(text)[0]))  # type: ignore[no-any-return]

    def maxima(self, text: Ragged) -> tuple[Tensor, Tensor]:
        """Each filter's maximum over a text, and at which word it begins, both `[N, F]`."""
        # Texts of like length together: little padding, and what they give does not depend on their neighbours.
        blocks = like_lengths(text.lengths, PADDED, 256)
        found = [self._block(text.take(rows)) for rows in blocks]
        order = torch.argsort(torch.cat(blocks)) if blocks else torch.empty(0, dtype=torch.int64)
        values, places_NF = (torch.cat(part)[order] for part in zip(*found, strict=True))
        return values, places_NF

    def _block(self, text: Ragged) -> tuple[Tensor, Tensor]:
        longest = max(int(text.lengths.max()), max(WIDTHS))
        token_NL = Ragged(text.values + 1, text.offsets).padded(longest, 0)
        word_NWL = self.table(token_NL).transpose(1, 2)
        found = []
        for width, conv in zip(WIDTHS, self.filters, strict=True):
            value_NFL = conv(word_NWL)
            # Only windows within the text count; of one too short for any, the first.
            last_N1 = (text.lengths - width).clamp(min=0).unsqueeze(1)
            outside_NL = torch.arange(value_NFL.shape[2]) > last_N1
            found.append(value_NFL.masked_fill(outside_NL.unsqueeze(1), -torch.inf).max(2))
        return F.relu(torch.cat([most.values for most in found], 1)), torch.cat([most.indices for most in found], 1)

    @torch.no_grad()
    def load_words(self, path: str | Path) -> None:
        """Take over pre-trained vectors; words that the file lacks keep theirs.

        Args:
            path: A text file, `word v1 v2 ...` on each line, as GloVe and fastText come.

        Raises:
            DataError: The file cannot be read, or has vectors of another width, or knows none of the words.
        """
        place = {word: row for row, word in enumerate(self.vocabulary, 2)}
        found = 0
        try:
            with Path(path).open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    word, *entries = line.rstrip().split(" ")
                    if number == 1 and len(entries) == 1:  # a heading: how many words, how wide
                        continue
                    row = place.get(word)
                    if row is not None:
                        self.table.weight[row] = self._entries(entries, f"{path}, line {number}")
                        found += 1
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read word vectors from {path}: {error}") from None
        if not found:
            raise DataError(f"{path} knows none of the {len(place):,} words of the training texts")

    def _entries(self, entries: list[str], where: str) -> Tensor:
        width = self.table.embedding_dim
        try:
            vector = torch.tensor([float(entry) for entry in entries])
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected a word and {width} numbers") from None
        if len(vector) != width:
            raise DataError(f"{where}: {len(vector)} numbers; this encoder's word vectors have {width}: set `words`")
        return vector

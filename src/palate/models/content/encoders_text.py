"""Text encoders: TextCNN reads words in their order, Bag counts them.

TextCNN  W dropout([max_l relu(<f, e_l ... e_(l+w-1)> + b)]) over filters f of w = 3, 4 and 5 words (Kim 2014,
         "Convolutional neural networks for sentence classification")
Bag      sum_v w_v e_v / |w|,  w_v = (1 + log count(v)) idf(v)   over the distinct words v of the text

Legend: N rows, L words, W width of a word vector, F filters, D width of the output, T values of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.data.features.schema import Column
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models.mf.normal_equations import blocks_of_similar_length

FILTER_WIDTHS = (3, 4, 5)
"""Words that a filter of TextCNN covers."""
WORD_STD = 0.01
"""Standard deviation of initial word vectors."""
MAX_WORDS_PER_BLOCK = 2**14
"""Words of a block of texts, padding included."""
MAX_TEXTS_PER_BLOCK = 256
"""Texts of a block."""


class WordEmbedding(nn.Embedding):
    """A vector for each word or tag, with small initial values.

    The vectors of rare words hardly change during training, and many new items consist of rare words only. With the
    unit variance of `nn.Embedding` they would be noise that is larger than what was learned.
    """

    def reset_parameters(self) -> None:
        """Draw small initial values."""
        nn.init.normal_(self.weight, std=WORD_STD)
        self._fill_padding_idx_with_zero()


class Bag(nn.Module):
    """Encodes words or tags as the sum of their vectors, with TF-IDF weights of norm 1.

    Args:
        column: The column; if it has no `idf`, all values have the same.
        dim: Width of the vectors.
    """

    idf: Tensor

    def __init__(self, column: Column, dim: int) -> None:
        super().__init__()
        size = len(column.values) + 1
        self.table = WordEmbedding(size, dim)
        # Values that training did not hold (index 0) count as the rarest.
        idf = torch.tensor([max(column.idf), *column.idf]) if column.idf else torch.ones(size)
        self.register_buffer("idf", idf, persistent=False)

    def forward(self, values: Ragged) -> Tensor:
        """`[N, D]`."""
        size = len(self.idf)
        key_T, count_T = torch.unique(values.row_of_value * size + values.values, return_counts=True)
        row_T, value_T = key_T // size, key_T % size
        weight_T = (1 + count_T.float().log()) * self.idf[value_T].clamp(min=1e-6)
        square_N = weight_T.new_zeros(len(values)).index_add(0, row_T, weight_T.square())
        weight_T = weight_T / square_N.sqrt()[row_T]
        zeros_ND = weight_T.new_zeros(len(values), self.table.embedding_dim)
        vector_ND: Tensor = zeros_ND.index_add(0, row_T, self.table(value_T) * weight_T.unsqueeze(1))
        return vector_ND


class TextCNN(nn.Module):
    """Encodes texts by a convolutional network.

    Args:
        vocabulary: The known words; token 1 is the first, token 0 is any other word.
        dim: Width of the vectors.
        words: Width of word vectors.
        filters: Number of filters of each width in `FILTER_WIDTHS`.
        dropout: Share of the filters' maxima dropped during training.
    """

    def __init__(
        self, vocabulary: Sequence[str], dim: int, *, words: int = 64, filters: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        # Row 0 is padding, row 1 an unknown word.
        self.table = WordEmbedding(len(vocabulary) + 2, words, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(words, filters, width) for width in FILTER_WIDTHS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(FILTER_WIDTHS), dim)

    def forward(self, text: Ragged) -> Tensor:
        """`[N, D]`; no text may be empty."""
        return self.head(self.dropout(self.maxima(text)[0]))  # type: ignore[no-any-return]

    def maxima(self, text: Ragged) -> tuple[Tensor, Tensor]:
        """Each filter's maximum over a text, and the word at which its window begins, both `[N, F]`."""
        # Texts of similar length form a block, so that there is little padding.
        blocks = blocks_of_similar_length(text.lengths, MAX_WORDS_PER_BLOCK, MAX_TEXTS_PER_BLOCK)
        found = [self._block(text.take(rows)) for rows in blocks]
        order = torch.argsort(torch.cat(blocks)) if blocks else text.values.new_empty(0)
        values, places_NF = (torch.cat(part)[order] for part in zip(*found, strict=True))
        return values, places_NF

    def _block(self, text: Ragged) -> tuple[Tensor, Tensor]:
        longest = max(int(text.lengths.max()), max(FILTER_WIDTHS))
        token_NL = Ragged(text.values + 1, text.offsets).padded(longest, 0)
        word_NWL = self.table(token_NL).transpose(1, 2)
        found = []
        for width, conv in zip(FILTER_WIDTHS, self.filters, strict=True):
            value_NFL = conv(word_NWL)
            # Only windows within the text count; of a text shorter than the filter, the first window.
            last_N1 = (text.lengths - width).clamp(min=0).unsqueeze(1)
            outside_NL = torch.arange(value_NFL.shape[2], device=last_N1.device) > last_N1
            found.append(value_NFL.masked_fill(outside_NL.unsqueeze(1), -torch.inf).max(2))
        return F.relu(torch.cat([most.values for most in found], 1)), torch.cat([most.indices for most in found], 1)

    @torch.no_grad()
    def load_words(self, path: str | Path) -> None:
        """Set word vectors from a file of pre-trained ones; words that it does not contain keep theirs.

        Args:
            path: A text file with lines `word v1 v2 ...`, the format of GloVe and fastText.

        Raises:
            DataError: The file cannot be read, has vectors of another width, or contains none of the words.
        """
        place = {word: row for row, word in enumerate(self.vocabulary, 2)}
        found = 0
        try:
            with Path(path).open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    word, *entries = line.rstrip().split(" ")
                    if number == 1 and len(entries) == 1:  # a header: number of words, width
                        continue
                    row = place.get(word)
                    if row is not None:
                        self.table.weight[row] = self._vector(entries, f"{path}, line {number}")
                        found += 1
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read word vectors from {path}: {error}") from None
        if not found:
            raise DataError(f"{path} contains none of the {len(place):,} words of the training texts")

    def _vector(self, entries: list[str], where: str) -> Tensor:
        width = self.table.embedding_dim
        try:
            vector = torch.tensor([float(entry) for entry in entries])
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected a word and {width} numbers") from None
        if len(vector) != width:
            raise DataError(f"{where}: {len(vector)} numbers, expected {width}; set words to {len(vector)}")
        return vector

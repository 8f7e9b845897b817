"""Every model of MODELS against every promise of `palate.testing`; and the promises against models that break them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import DataError
from palate.models import MODELS
from palate.models.autoencoders.autorec import AutoRecConfig, IAutoRec, UAutoRec
from palate.models.autoencoders.cdae import CDAE, CDAEConfig
from palate.models.autoencoders.multvae import MultDAE, MultDAEConfig, MultVAE, MultVAEConfig
from palate.models.autoencoders.recvae import RecVAE, RecVAEConfig
from palate.models.autoencoders.sparsefc import SparseFC, SparseFCConfig
from palate.models.base import GradientModel, Model
from palate.models.content.cnn import ImageCNNConfig, ImageRecommender, TextCNNConfig, TextRecommender
from palate.models.content.content_ials import ContentIALS, ContentIALSConfig
from palate.models.content.content_knn import ContentKNN, ContentKNNConfig
from palate.models.content.convmf import ConvMF, ConvMFConfig
from palate.models.content.deepfm import DeepFM, DeepFMConfig
from palate.models.content.two_tower import TwoTower, TwoTowerConfig
from palate.models.content.vbpr import VBPR, VBPRConfig
from palate.models.graph.filters import GFCF, GFCFConfig, TurboCF, TurboCFConfig
from palate.models.graph.graph_net import LightGCN, LightGCNConfig, XSimGCL, XSimGCLConfig
from palate.models.hybrid.blend import Blend, BlendConfig, Member
from palate.models.hybrid.dropoutnet import DropoutNet, DropoutNetConfig
from palate.models.hybrid.hybrid import Hybrid, HybridConfig
from palate.models.linear.puresvd import PureSVD, PureSVDConfig
from palate.models.linear.sparse_ease import SparseEASE, SparseEASEConfig
from palate.models.mf.bayes_mf import BayesMF, BayesMFConfig
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.mf.mf import MF, MFConfig
from palate.models.mf.svdpp import SVDpp, SVDppConfig
from palate.models.ncf.ncf import NeuMF, NeuMFConfig
from palate.models.neighbours.knn import ItemKNN, ItemKNNConfig, UserKNN, UserKNNConfig
from palate.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from palate.models.sequence.nextitnet import NextItNet, NextItNetConfig
from palate.models.sequence.sasrec import SASRec, SASRecConfig
from palate.testing import CHECKS, Case, golden, planted
from palate.training.loop import Epoch, TrainRun
from pictures import make_pictured

Check = Callable[[Case], None]

MSE = MFConfig(loss="mse", dim=8, reg=0.4, bias_reg=0.5, reg_power=0.5)

SHORTER = Training(epochs=15, batch_size=64, lr=0.005)
LONGER = Training(epochs=40, batch_size=32, lr=0.01)
CONTENT = Training(epochs=10, batch_size=32, lr=0.01)
SEQUENCE = Training(epochs=15, batch_size=16, lr=0.01)

# `Case(model)` for each model, and another for each way of learning that its default config does not take.
CASES: dict[str, Case] = {name: Case(model) for name, model in MODELS.items()} | {
    "popularity": Case(MODELS["popularity"], popular=True),
    "recent-popularity": Case(MODELS["recent-popularity"], popular=True),
    "bias": Case(MODELS["bias"], popular=True),
    "mf-mse": Case(MF, MSE, Training(epochs=10, batch_size=256, lr=0.05)),
    "mf-bpr": Case(MF, MFConfig(loss="bpr")),
    "mf-softmax": Case(MF, MFConfig(loss="softmax")),
    "mf-sampled-softmax": Case(MF, MFConfig(loss="sampled-softmax")),
    "neumf-joint": Case(NeuMF, NeuMFConfig(loss="joint")),
    "neumf-mse": Case(
        NeuMF,
        NeuMFConfig(dim=8, mlp_dim=8, layers=(16, 8), loss="mse"),
        Training(epochs=10, batch_size=64, lr=0.01),
    ),
    "itemknn-bm25": Case(ItemKNN, ItemKNNConfig(weighting="bm25")),
    "userknn-tfidf": Case(UserKNN, UserKNNConfig(weighting="tfidf")),
    "puresvd": Case(PureSVD, PureSVDConfig(dim=4)),
    "ials": Case(IALS, IALSConfig(dim=8)),
    "gf-cf": Case(GFCF, GFCFConfig(dim=4, k=30)),
    "turbo-cf": Case(TurboCF, TurboCFConfig(k=30)),
    "turbo-cf-order-3": Case(TurboCF, TurboCFConfig(order=3)),
    "lightgcn": Case(LightGCN, LightGCNConfig(dim=16)),
    "xsimgcl": Case(XSimGCL, XSimGCLConfig(dim=16, contrast=0.05)),
    "sasrec": Case(SASRec, SASRecConfig(dim=16, length=20), SEQUENCE),
    "sasrec-ligr": Case(SASRec, SASRecConfig(dim=16, length=20, heads=2, layer="ligr", time_gaps=True), SEQUENCE),
    "sasrec-sampled": Case(SASRec, SASRecConfig(dim=16, length=20, loss="sampled-softmax", negatives=30), SEQUENCE),
    "sasrec-content": Case(SASRec, SASRecConfig(dim=16, length=20, content=True), SEQUENCE),
    "gru4rec": Case(GRU4Rec, GRU4RecConfig(dim=16, length=20), SEQUENCE),
    "gru4rec-gbce-content": Case(
        GRU4Rec, GRU4RecConfig(dim=16, length=20, loss="gbce", negatives=30, content=True), SEQUENCE
    ),
    "nextitnet": Case(NextItNet, NextItNetConfig(dim=16, length=20, dilations=(1, 2)), SEQUENCE),
    "cdae": Case(CDAE, CDAEConfig(dim=16), LONGER),
    "multdae": Case(MultDAE, MultDAEConfig(dim=16), SHORTER),
    "multvae": Case(MultVAE, MultVAEConfig(hidden=32, dim=8), SHORTER),
    "recvae": Case(RecVAE, RecVAEConfig(hidden=32, dim=8), SHORTER),
    "u-autorec": Case(UAutoRec, AutoRecConfig(dim=16, reg=5.0), LONGER),
    "i-autorec": Case(IAutoRec, AutoRecConfig(dim=16, reg=5.0), LONGER),
    "bayes-mf": Case(BayesMF, BayesMFConfig(dim=4, features=4, warmup=20, samples=20, thin=2)),
    "sparse-ease": Case(SparseEASE, SparseEASEConfig(reg=10.0, k=20)),
    "sparsefc": Case(SparseFC, SparseFCConfig(dim=16, reg=1.0, dropout=0.2), LONGER),
    "svdpp": Case(SVDpp, SVDppConfig(dim=8, reg=0.4), Training(epochs=10, batch_size=256, lr=0.05)),
    "svdpp-time": Case(
        SVDpp,
        SVDppConfig(dim=8, reg=0.4, time=True, item_bins=3, sessions=4),
        Training(epochs=10, batch_size=256, lr=0.05),
    ),
    "text-cnn": Case(TextRecommender, TextCNNConfig(dim=16), CONTENT),
    "text-cnn-bag": Case(TextRecommender, TextCNNConfig(dim=16, text="bag", pool=40), CONTENT),
    "image-cnn": Case(
        ImageRecommender,
        ImageCNNConfig(dim=16, pool=40),
        Training(epochs=10, batch_size=54, lr=0.01),
        make_pictured(),  # of its own: pictures that others have encoded are larger
    ),
    "two-tower": Case(TwoTower, TwoTowerConfig(dim=16), CONTENT),
    "two-tower-exact": Case(TwoTower, TwoTowerConfig(dim=16, text="bag"), CONTENT),
    "dropoutnet": Case(DropoutNet, DropoutNetConfig(dim=8)),
    "dropoutnet-mf": Case(DropoutNet, DropoutNetConfig(dim=8, warm="mf", reg=0.005)),
    "content-knn-neighbours": Case(ContentKNN, ContentKNNConfig(profile="neighbours", k=30, ratings=True, shrink=0.1)),
    "content-ials": Case(ContentIALS, ContentIALSConfig(dim=8)),
    "convmf": Case(
        ConvMF,
        ConvMFConfig(dim=8, init=0.1, reg=0.4, content_epochs=5, text="bag"),
        Training(epochs=10, batch_size=256, lr=0.05),
    ),
    "convmf-rounds": Case(
        ConvMF,
        ConvMFConfig(dim=8, init=0.1, reg=0.4, rounds=2, content_epochs=3),
        Training(epochs=8, batch_size=256, lr=0.05),
    ),
    "vbpr": Case(VBPR, VBPRConfig(dim=8, content_dim=8, items_per_step=40)),
    "vbpr-frozen": Case(VBPR, VBPRConfig(dim=8, content_dim=8, content="frozen")),
    "deepfm": Case(DeepFM, DeepFMConfig(dim=8, layers=(16,))),
    "deepfm-cross": Case(DeepFM, DeepFMConfig(dim=8, layers=(16, 8), cross="cross")),
    "deepfm-wide-mse": Case(DeepFM, DeepFMConfig(dim=8, layers=(16,), cross="wide", loss="mse")),
    "hybrid": Case(Hybrid, HybridConfig(warm="ease")),
    "blend": Case(Blend, BlendConfig(members=("ease", "itemknn"))),
    "blend-ratings": Case(
        Blend,
        BlendConfig(
            members=(
                "bias",
                Member(model="bayes-mf", config=BayesMFConfig(dim=4, features=4, warmup=20, samples=20, thin=2)),
            )
        ),
    ),
}

# Training loss of the first two epochs on `planted()`. Whoever changes them on purpose writes the new ones here.
GOLDEN: dict[str, tuple[float, float]] = {
    "mf": (0.498348, 0.455539),
    "gmf": (0.673519, 0.608006),
    "mlp": (0.551902, 0.492780),
    "neumf": (0.570580, 0.492721),
    "neumf-joint": (0.991915, 0.810515),
    "neumf-mse": (1.352626, 1.060123),
    "mf-mse": (1.350661, 0.955781),
    "mf-bpr": (0.686424, 0.549504),
    "mf-softmax": (4.389049, 4.144006),
    "mf-sampled-softmax": (1.599111, 1.363265),
    "cdae": (0.64588, 0.53986),
    "multdae": (4.39380, 4.37018),
    "multvae": (4.38681, 4.35982),
    "recvae": (4.53551, 4.42305),
    "u-autorec": (1.03801, 0.93507),
    "i-autorec": (1.10131, 0.97390),
    "sparsefc": (1.04601, 0.97631),
    "text-cnn": (4.871698, 3.941530),
    "text-cnn-bag": (5.049632, 4.166942),
    "image-cnn": (5.557635, 4.148861),
    "two-tower": (5.103249, 4.287774),
    "two-tower-exact": (5.015722, 4.173147),
    "dropoutnet": (0.700998, 0.377997),
    "dropoutnet-mf": (1.801253, 1.276195),
    "convmf": (1.350961, 0.950818),
    "convmf-rounds": (0.741849, 0.403333),
    "vbpr": (0.733807, 0.601778),
    "vbpr-frozen": (0.684426, 0.608827),
    "deepfm": (0.484139, 0.413836),
    "deepfm-cross": (0.497866, 0.456899),
    "deepfm-wide-mse": (1.368619, 1.109451),
    "lightgcn": (0.687490, 0.642633),
    "xsimgcl": (0.679083, 0.673139),
    "svdpp": (1.248568, 0.615531),
    "sasrec": (4.365886, 4.173885),
    "sasrec-ligr": (4.361902, 4.209183),
    "sasrec-sampled": (4.363759, 4.185241),
    "sasrec-content": (5.608708, 4.429428),
    "gru4rec": (4.357940, 4.292170),
    "gru4rec-gbce-content": (9.143283, 4.162634),
    "nextitnet": (4.363257, 4.295109),
    "svdpp-time": (2.269223, 1.876221),
}


@pytest.fixture(autouse=True, scope="module")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pictures are brought to 8 x 8, in a cache of their own, so that the CNN takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palate.data.features.encode.IMAGE_SIZE", (3, 8, 8))
        patch.setenv("PALATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_contract(case: Case, check: Check) -> None:
    check(case)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if issubclass(case.model, GradientModel)])
def test_golden_losses(name: str) -> None:
    # Pictures that another test has encoded are larger than here.
    case = replace(CASES[name], parts=make_pictured()) if name == "image-cnn" else CASES[name]
    first, second = golden(case)
    assert first == pytest.approx(GOLDEN[name][0], rel=1e-4)
    # Processors sum convolutions in orders of their own, and Adam takes whole steps along gradients that are rounding.
    assert second == pytest.approx(GOLDEN[name][1], rel=5e-3 if name == "image-cnn" else 1e-4)


def test_the_list_of_models_is_cheap_to_import() -> None:
    code = "import torch, sys; from palate.models import MODELS; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    assert "palate.models.mf.mf" in loaded
    assert not {
        "matplotlib",
        "pandas",
        "optuna",
        "fastapi",
        "palate.evaluation",
        "palate.recommender.recommender",
    } & set(loaded)


@dataclass(frozen=True, kw_only=True)
class FlawedConfig:
    """`flaw` is the promise to break; "" for none."""

    flaw: str = ""


class Flawed(Model):
    """Items by how often they were chosen together with those of the history, in one way or another wrong."""

    Config = FlawedConfig
    answers = frozenset({"known_user", "history", "rating"})
    together: Tensor
    aside: Tensor

    def __init__(self, config: FlawedConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.flaw = config.flaw
        if self.flaw == "answers":
            self.answers = self.answers | {"everything"}
        if self.flaw == "needs":
            self.needs = self.needs | {"rating"}
        self.register_buffer("together", torch.zeros(spec.n_items, spec.n_items))
        self.register_buffer("aside", torch.zeros(spec.n_users), persistent=self.flaw != "state")

    def _check(self, data: Dataset) -> None:
        if self.flaw != "needs":
            super()._check(data)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        if self.flaw == "global":
            np.random.rand()  # noqa: NPY002
        chosen = torch.zeros(data.n_users, data.n_items)
        chosen[torch.from_numpy(data.user).long(), torch.from_numpy(data.item).long()] = 1
        together = chosen.T @ chosen / chosen.sum(0).clamp(min=1)
        self.together.copy_(together + (self.together if self.flaw == "second fit" else 0))
        self.aside.copy_(chosen.sum(1))
        if self.flaw == "seed":
            self.together += torch.Generator().seed() % 1000
        if self.flaw == "order":
            self.together += float(data.item[0] - data.item[-1]) * torch.arange(data.n_items)
        if self.flaw == "popular":
            self.together.copy_(torch.from_numpy(data.item_counts).expand_as(self.together))
        return []

    def _score(self, queries: Queries) -> Tensor:
        history = queries.history
        scores = torch.zeros(len(queries), self.spec.n_items)
        scores.index_add_(0, history.row_of_value, self.together[history.values])
        scores[queries.user >= 0] += self.aside[0]
        if self.flaw == "nan":
            scores[0, 0] = torch.nan
        if self.flaw == "double":
            return scores.double()
        if self.flaw == "alias":
            self.kept = scores if not hasattr(self, "kept") else self.kept
            return self.kept
        if self.flaw == "batch":
            return scores - scores.mean()
        return scores

    def _predict(self, queries: Queries, row_P: Tensor, item_P: Tensor) -> Tensor:
        mean = self.fallback.mean + self.fallback.item_deviation[item_P]
        return mean.flip(0) if self.flaw == "rows" else mean * (0 if self.flaw == "ratings" else 1)

    def item_vectors(self) -> Tensor | None:
        return self.together if self.flaw == "vectors" else None


FLAWS = {
    "nan": "shape_and_type",
    "double": "shape_and_type",
    "alias": "deterministic",
    "batch": "batch_size",
    "rows": "batch_size",
    "order": "row_order",
    "seed": "one_seed",
    "state": "round_trip",
    "needs": "needs_honoured",
    "answers": "answers_honoured",
    "vectors": "answers_honoured",
    "popular": "beats_popularity",
    "ratings": "beats_popularity",
    "second fit": "second_fit",
    "global": "random_state",
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_sound_model_keeps_every_promise(check: Check) -> None:
    check(Case(Flawed))


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_broken_promise_is_noticed(flaw: str) -> None:
    # A type that is wrong may also be noticed by the run-time check of annotations.
    with pytest.raises((AssertionError, TypeError)):
        CHECKS[FLAWS[flaw]](Case(Flawed, FlawedConfig(flaw=flaw)))


def test_a_broken_seed_rule_of_a_gradient_model_is_noticed() -> None:
    class Deaf(GradientModel):
        """The seed decides nothing."""

        Config = FlawedConfig

        def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
            return []

        def batches(self, data: Dataset, rng: torch.Generator, size: int) -> None:  # type: ignore[override]
            return None

        def loss(self, batch: None) -> Tensor:
            return torch.zeros(())

        def _score(self, queries: Queries) -> Tensor:
            return torch.zeros(len(queries), self.spec.n_items)

    with pytest.raises(AssertionError, match="the seed has no effect"):
        CHECKS["one_seed"](Case(Deaf))


def test_the_fit_names_what_is_missing_and_what_to_use_instead() -> None:
    bare = replace(planted().train, rating=None)
    for model in (MF(MFConfig(loss="mse"), bare.spec), MODELS["bias"](MODELS["bias"].Config(), bare.spec)):
        with pytest.raises(DataError, match=r"needs rating, which this data lacks.*; without ratings use .*bce"):
            model.fit(bare)


def test_data_of_another_size_is_refused() -> None:
    data = planted().train
    model = MF(MFConfig(), Spec(n_users=3, n_items=data.n_items))
    with pytest.raises(DataError, match=r"built for 3 users and 80 items, and this data has 160 and 80; build"):
        model.fit(data)


def test_a_whole_history_of_unknown_people_and_items_gets_an_answer() -> None:
    data = planted().train
    model = MF(MSE, data.spec)
    model.fit(data, Training(epochs=1))
    queries = Queries(torch.tensor([0, -1, -1]), Ragged.of([[], [], [1, 2]]))
    row, item = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([-1, -1, 4, 4, -1])
    predictions = model.predict(queries, item, row)
    fallback = model.fallback
    assert predictions[0] == pytest.approx(float(fallback.mean + fallback.user_deviation[0]))
    assert predictions[1] == predictions[4] == fallback.mean
    assert predictions[2] == fallback.mean + fallback.item_deviation[4]
    assert torch.equal(model.score(queries)[1], fallback.popularity)

"""MODELS: name -> class. The list to look at first; each model is one file, which opens with its formula."""

from __future__ import annotations

from palate.models.autorec import IAutoRec, UAutoRec
from palate.models.base import GradientModel, Model
from palate.models.bayes_mf import BayesMF
from palate.models.bias import Bias
from palate.models.blend import MEMBERS, Blend
from palate.models.cdae import CDAE
from palate.models.content_cnn import ImageRecommender, TextRecommender
from palate.models.content_ials import ContentIALS
from palate.models.content_knn import ContentKNN
from palate.models.convmf import ConvMF
from palate.models.deepfm import DeepFM
from palate.models.dropoutnet import DropoutNet
from palate.models.ease import EASE, EDLAE
from palate.models.hybrid import Hybrid
from palate.models.ials import IALS
from palate.models.knn import ItemKNN, UserKNN
from palate.models.mf import MF
from palate.models.multvae import MultDAE, MultVAE
from palate.models.ncf import GMF, MLP, NeuMF
from palate.models.popularity import Popularity
from palate.models.puresvd import PureSVD
from palate.models.recvae import RecVAE
from palate.models.rp3beta import RP3beta
from palate.models.sparse_ease import SparseEASE
from palate.models.sparsefc import SparseFC
from palate.models.svdpp import SVDpp
from palate.models.two_tower import TwoTower
from palate.models.vbpr import VBPR

__all__ = ["MODELS", "GradientModel", "Model"]

MODELS: dict[str, type[Model]] = {
    "popularity": Popularity,
    "bias": Bias,
    "mf": MF,
    "gmf": GMF,
    "mlp": MLP,
    "neumf": NeuMF,
    "itemknn": ItemKNN,
    "userknn": UserKNN,
    "rp3beta": RP3beta,
    "puresvd": PureSVD,
    "ials": IALS,
    "ease": EASE,
    "edlae": EDLAE,
    "sparse-ease": SparseEASE,
    "cdae": CDAE,
    "multdae": MultDAE,
    "multvae": MultVAE,
    "recvae": RecVAE,
    "u-autorec": UAutoRec,
    "i-autorec": IAutoRec,
    "bayes-mf": BayesMF,
    "sparsefc": SparseFC,
    "svdpp": SVDpp,
    "content-knn": ContentKNN,
    "content-ials": ContentIALS,
    "text-cnn": TextRecommender,
    "image-cnn": ImageRecommender,
    "two-tower": TwoTower,
    "dropoutnet": DropoutNet,
    "convmf": ConvMF,
    "vbpr": VBPR,
    "deepfm": DeepFM,
    "hybrid": Hybrid,
    "blend": Blend,
}
MEMBERS.update(MODELS)

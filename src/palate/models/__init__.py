"""MODELS: name -> class. The list to look at first; each model is one file, which opens with its formula."""

from __future__ import annotations

from palate.models.autorec import IAutoRec, UAutoRec
from palate.models.base import GradientModel, Model
from palate.models.bayes_mf import BayesMF
from palate.models.bias import Bias
from palate.models.blend import MEMBERS, Blend
from palate.models.cdae import CDAE
from palate.models.ease import EASE, EDLAE
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
    "blend": Blend,
}
MEMBERS.update(MODELS)

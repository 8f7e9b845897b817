"""MODELS: name -> class. The list to look at first; each model is one file, which opens with its formula."""

from __future__ import annotations

from palate.models.autoencoders.autorec import IAutoRec, UAutoRec
from palate.models.autoencoders.cdae import CDAE
from palate.models.autoencoders.multvae import MultDAE, MultVAE
from palate.models.autoencoders.recvae import RecVAE
from palate.models.autoencoders.sparsefc import SparseFC
from palate.models.base import GradientModel, Model
from palate.models.baselines.bias import Bias
from palate.models.baselines.popularity import Popularity, RecentPopularity
from palate.models.content.cnn import ImageRecommender, TextRecommender
from palate.models.content.content_ials import ContentIALS
from palate.models.content.content_knn import ContentKNN
from palate.models.content.convmf import ConvMF
from palate.models.content.deepfm import DeepFM
from palate.models.content.two_tower import TwoTower
from palate.models.content.vbpr import VBPR
from palate.models.graph.filters import GFCF, TurboCF
from palate.models.graph.graph_net import LightGCN, XSimGCL
from palate.models.hybrid.blend import Blend
from palate.models.hybrid.dropoutnet import DropoutNet
from palate.models.hybrid.hybrid import Hybrid
from palate.models.linear.ease import EASE, EDLAE
from palate.models.linear.puresvd import PureSVD
from palate.models.linear.sparse_ease import SparseEASE
from palate.models.mf.bayes_mf import BayesMF
from palate.models.mf.ials import IALS
from palate.models.mf.mf import MF
from palate.models.mf.svdpp import SVDpp
from palate.models.ncf.ncf import GMF, MLP, NeuMF
from palate.models.neighbours.knn import ItemKNN, UserKNN
from palate.models.neighbours.rp3beta import RP3beta
from palate.models.sequence.gru4rec import GRU4Rec
from palate.models.sequence.markov import Markov
from palate.models.sequence.nextitnet import NextItNet
from palate.models.sequence.sasrec import SASRec
from palate.models.sequence.vmis_knn import VMISKNN

__all__ = ["MODELS", "GradientModel", "Model"]

MODELS: dict[str, type[Model]] = {
    "popularity": Popularity,
    "recent-popularity": RecentPopularity,
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
    "gf-cf": GFCF,
    "turbo-cf": TurboCF,
    "lightgcn": LightGCN,
    "xsimgcl": XSimGCL,
    "markov": Markov,
    "vmis-knn": VMISKNN,
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "nextitnet": NextItNet,
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

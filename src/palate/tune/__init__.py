"""Search over settings (`tune`) and comparison of models under one protocol and one tuning budget (`contest`)."""

from palate.tune.contest import Contest, Entry, contest
from palate.tune.search import Trial, Tuned, tune
from palate.tune.spaces import SPACES, Choice, Range

__all__ = ["SPACES", "Choice", "Contest", "Entry", "Range", "Trial", "Tuned", "contest", "tune"]

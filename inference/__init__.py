"""Inference: how we learn."""

from __future__ import annotations

from .draws import Draws, PointEstimate
from .encoder_guide import EncoderGuide
from .encoders import GRUEncoder, ODERNNEncoder
from .export import to_arviz
from .fit import fit
from .fit_prior import fit_prior
from .guide import Guide
from .history import History
from .langevin_guide import LangevinGuide
from .posterior import anneal, anneal_twice, best_draw, chains
from .predict import log_likelihood, log_score, posterior_predict, prior_draws
from .refined_guide import RefinedGuide

__all__ = [
    "Draws",
    "EncoderGuide",
    "GRUEncoder",
    "Guide",
    "History",
    "LangevinGuide",
    "ODERNNEncoder",
    "PointEstimate",
    "RefinedGuide",
    "anneal",
    "anneal_twice",
    "best_draw",
    "chains",
    "fit",
    "fit_prior",
    "log_likelihood",
    "log_score",
    "posterior_predict",
    "prior_draws",
    "to_arviz",
]

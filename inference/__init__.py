"""Inference: how we learn."""

from __future__ import annotations

from .calibration import Calibration, calibrate
from .diagnosis import Diagnosis, diagnose, nested_r_hat
from .draws import Draws, PointEstimate
from .encoder_guide import EncoderGuide
from .encoders import GRUEncoder, ODERNNEncoder
from .evidence import log_evidence
from .export import to_arviz
from .fit import fit
from .fit_prior import fit_prior
from .guide import Guide
from .history import History
from .langevin_guide import LangevinGuide
from .momentum import MALT, MCLMC, Underdamped
from .numpyro_mcmc import NumPyroMCMC
from .out_of_distribution import strangeness
from .overdamped import MALA, ULA, Barker
from .posterior import anneal, anneal_twice, best_draw, chains
from .predict import log_likelihood, log_score, posterior_predict, prior_draws
from .ranks import LostRank, distributed
from .readers import ConvolutionalReader
from .refined_guide import RefinedGuide
from .sgld import SGLD
from .tempered import Tempered
from .vectorized import VectorizedMCMC

__all__ = [
    "MALA",
    "MALT",
    "MCLMC",
    "SGLD",
    "ULA",
    "Barker",
    "Calibration",
    "ConvolutionalReader",
    "Diagnosis",
    "Draws",
    "EncoderGuide",
    "GRUEncoder",
    "Guide",
    "History",
    "LangevinGuide",
    "LostRank",
    "NumPyroMCMC",
    "ODERNNEncoder",
    "PointEstimate",
    "RefinedGuide",
    "Tempered",
    "Underdamped",
    "VectorizedMCMC",
    "anneal",
    "anneal_twice",
    "best_draw",
    "calibrate",
    "chains",
    "diagnose",
    "distributed",
    "fit",
    "fit_prior",
    "log_evidence",
    "log_likelihood",
    "log_score",
    "nested_r_hat",
    "posterior_predict",
    "prior_draws",
    "strangeness",
    "to_arviz",
]

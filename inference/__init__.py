"""Inference: how we learn."""

from __future__ import annotations

from .calibration import Calibration, calibrate
from .diagnosis import Diagnosis, diagnose, nested_r_hat
from .draws import Draws, PointEstimate
from .evidence import log_evidence
from .export import to_arviz
from .guides.bottom_up_guide import BottomUpGuide
from .guides.encoder_guide import EncoderGuide
from .guides.encoders import GRUEncoder, ODERNNEncoder
from .guides.guide import Guide
from .guides.langevin_guide import LangevinGuide
from .guides.path_encoder import PathEncoder
from .guides.path_guide import PathGuide
from .guides.readers import ConvolutionalReader
from .guides.refined_guide import RefinedGuide
from .out_of_distribution import strangeness
from .parallel.ranks import LostRank, distributed
from .posterior import anneal, anneal_twice, best_draw, chains
from .predict import log_likelihood, log_score, posterior_predict, prior_draws
from .sampling.momentum import MALT, MCLMC, Underdamped
from .sampling.numpyro_mcmc import NumPyroMCMC
from .sampling.overdamped import MALA, ULA, Barker
from .sampling.sgld import SGLD
from .sampling.tempered import Tempered
from .sampling.vectorized import VectorizedMCMC
from .training.fit import fit
from .training.fit_prior import fit_prior
from .training.history import History

__all__ = [
    "MALA",
    "MALT",
    "MCLMC",
    "SGLD",
    "ULA",
    "Barker",
    "BottomUpGuide",
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
    "PathEncoder",
    "PathGuide",
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

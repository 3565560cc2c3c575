"""Scores: of predictions, of what is generated, of what is detected, of what latents mean."""

from __future__ import annotations

from .comparison import Difference, bootstrap_interval, paired_interval
from .detection import Detection, detection, input_complexity
from .disentanglement import block_r2, dci, mutual_information_gap, sap
from .errors import coverage, crps, interval, mse
from .features import ClassifierFeatures, InceptionFeatures, classifier_features
from .fidelity import Fidelity, fidelity
from .generation import classifier_auc, median_bandwidth, mmd
from .series import (
    BinaryScores,
    IntervalCalibration,
    binary_scores,
    correlation,
    interval_calibration,
    seconds_per_sequence,
)
from .spikes import bits_per_spike, rate_r2
from .stein import kernel_stein_discrepancy

__all__ = [
    "BinaryScores",
    "ClassifierFeatures",
    "Detection",
    "Difference",
    "Fidelity",
    "InceptionFeatures",
    "IntervalCalibration",
    "binary_scores",
    "bits_per_spike",
    "block_r2",
    "bootstrap_interval",
    "classifier_auc",
    "classifier_features",
    "correlation",
    "coverage",
    "crps",
    "dci",
    "detection",
    "fidelity",
    "input_complexity",
    "interval",
    "interval_calibration",
    "kernel_stein_discrepancy",
    "median_bandwidth",
    "mmd",
    "mse",
    "mutual_information_gap",
    "paired_interval",
    "rate_r2",
    "sap",
    "seconds_per_sequence",
]

"""Pictures of the irregular-sinusoids demo, from what its trainings left in a folder."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from sines_run import DENSE, Run, sines

from pyro_lebm.inference.plots import plot_generated, plot_sequences
from pyro_lebm.models.datasets import irregular_sines

matplotlib.use("Agg")

TITLES = {
    "latent_ode": "latent ODE, N(0, I) prior",
    "ode_lebm_langevin": "ODE-LEBM, Langevin",
    "ode_lebm_refined": "ODE-LEBM, refined",
}


def draw_all(run: Run, source: Path, folder: Path) -> list[Path]:
    """Write every picture of a run and its sisters; returns their paths."""
    pictures = {
        "predictions": predictions(run, source, "ode_lebm_refined"),
        "predictions_encoder": predictions(run, source, "latent_ode"),
        "generated": generated(run, source),
        "training": training(source),
    }
    paths = []
    for name, figure in pictures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        paths.append(path)
    return paths


def predictions(run: Run, source: Path, row: str) -> Figure:
    """Six test sequences under posterior bands."""
    data = sines(run)
    draws = torch.load(source / f"{row}_predictions.pt", weights_only=True)["predictions"]
    few = torch.arange(6)
    return plot_sequences(
        data.given[few], draws, DENSE, target=data.hidden[few], time_label="time (s)"
    )


def generated(run: Run, source: Path) -> Figure:
    """Unconditional draws of each model beside data."""
    times = sines(run).train.times
    samples = {"data": irregular_sines(200, seed=5000, times=times).values}
    for method, title in TITLES.items():
        file = torch.load(source / f"{method}_generated.pt", weights_only=True)
        samples[title] = file["generated"]
    return plot_generated(samples, times, time_label="time (s)")


def training(source: Path) -> Figure:
    """Loss per sequence against seconds, and the energies of positives and negatives."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    loss, energy = figure.subplots(1, 2)
    for method, title in TITLES.items():
        frame = pd.read_csv(source / f"{method}_history.csv")
        smooth = (frame["loss"] / 400).rolling(25, min_periods=1).median()
        loss.plot(frame["seconds"], smooth, label=title, lw=1.4)
    loss.set(xlabel="seconds", ylabel="loss per sequence (nats)", title="training")
    loss.legend(frameon=False)
    frame = pd.read_csv(source / "ode_lebm_refined_energy.csv")
    gap = frame["energy_negative"] - frame["energy_positive"]
    energy.plot(frame["seconds"], gap, lw=0.5, alpha=0.4)
    energy.plot(frame["seconds"], gap.rolling(50, min_periods=1).mean(), lw=1.6, color="C0")
    energy.axhline(0, color="0.6", lw=0.8)
    energy.set(
        xlabel="seconds",
        ylabel="mean energy, prior - posterior (nats)",
        title="ODE-LEBM, refined: the energy alone",
    )
    for ax in (loss, energy):
        ax.spines[["top", "right"]].set_visible(False)
    return figure

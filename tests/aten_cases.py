"""Torch functions of twelve numbers, each of which comes to ATen operations of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = Callable[[Tensor], Any]
ATEN: Any = torch.ops.aten
CLASSES = torch.tensor([0, 3, 1])
MASK: Any = torch.tensor([True, False, True, True])


def m(x: Tensor) -> Tensor:
    """A matrix."""
    return x.reshape(3, 4)


def sq(x: Tensor) -> Tensor:
    """A matrix that has an inverse."""
    return x[:9].reshape(3, 3) + 4 * torch.eye(3)


def image(x: Tensor) -> Tensor:
    return x.reshape(1, 1, 3, 4)


def channels(x: Tensor) -> Tensor:
    return x.reshape(1, 4, 3)


def steps(x: Tensor) -> Tensor:
    """Three steps of two sequences of two values."""
    return x.reshape(3, 2, 2)


def attention(x: Tensor, **kwargs: Any) -> Tensor:
    values = m(x)[None, None]
    return F.scaled_dot_product_attention(values, values.sin(), values.cos(), **kwargs)


def p(x: Tensor) -> Tensor:
    """Probabilities."""
    return x.sigmoid()


def of(module: nn.Module, shape: tuple[int, ...]) -> Case:
    """A module with weights of its own, in double precision."""
    torch.manual_seed(0)
    for value in [*module.parameters(), *module.buffers()]:
        if value.is_floating_point():
            value.data = torch.rand(value.shape, dtype=torch.float64) + 0.1
    return lambda x: module(x.reshape(shape))


def alphas(x: Tensor) -> Tensor:
    """A loop, where the factor is another in each turn."""
    y = x
    for alpha in (0.1, 0.2, 0.3, 0.4, 0.5):
        y = torch.sin(torch.add(torch.sub(y, x, alpha=alpha / 2), x, alpha=alpha))
    return y


def betas(x: Tensor) -> Tensor:
    y: Tensor = x[:4].reshape(2, 2)
    for beta in (0.1, 0.2, 0.3, 0.4, 0.5):
        y = torch.addmm(y, y, y, beta=beta, alpha=beta / 4)
    return y


def svd_product(full: bool) -> Case:
    def product(x: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(m(x), full_matrices=full)
        found: Tensor = (u[:, :3] * s.exp()) @ vh[:3]
        return found

    return product


NORMS: dict[str, Case] = {
    "Frobenius": lambda x: torch.linalg.matrix_norm(m(x)),
    "norm over two dims": lambda x: m(x).norm(dim=(0, 1)),
    "norm over three dims": lambda x: torch.linalg.vector_norm(steps(x), 3, dim=(0, 1, 2)),
    "norm over all": lambda x: torch.linalg.vector_norm(m(x), 1.5),
    "norm kept": lambda x: torch.linalg.vector_norm(steps(x), 1, dim=(0, 2), keepdim=True),
    "1-norm": lambda x: torch.linalg.vector_norm(m(x), 1, dim=(0, 1)),
    "inf-norm": lambda x: torch.linalg.vector_norm(m(x), torch.inf, dim=(0, 1)),
    "minus inf-norm": lambda x: torch.linalg.vector_norm(m(x), -torch.inf, dim=1),
    "half norm": lambda x: torch.linalg.vector_norm(m(x), 0.5, dim=1),
    "count norm": lambda x: torch.linalg.vector_norm(m(x), 0, dim=1) * x[:3],
    "nuclear norm": lambda x: torch.linalg.matrix_norm(m(x), "nuc"),
    "dist": lambda x: torch.dist(x, torch.ones(12)),
    "cdist": lambda x: torch.cdist(m(x), torch.ones(2, 4)),
    "cdist p": lambda x: torch.cdist(m(x), m(x.cos()), p=3.0),
    "cdist 1": lambda x: torch.cdist(steps(x), torch.ones(1, 2), p=1.0),
    "cdist itself": lambda x: torch.cdist(m(x), m(x)),
}
LINEAR: dict[str, Case] = {
    "solve": lambda x: torch.linalg.solve(sq(x), x.reshape(3, 4)),
    "solve right": lambda x: torch.linalg.solve(sq(x), x.reshape(4, 3), left=False),
    "solve vector": lambda x: torch.linalg.solve(sq(x), x[:3]),
    "solve vectors": lambda x: torch.linalg.solve(torch.stack([sq(x), sq(-x)]), x[:6].view(2, 3)),
    "solve broadcast": lambda x: torch.linalg.solve(sq(x)[None], sq(x.sin())),
    "cholesky": lambda x: torch.linalg.cholesky(sq(x) @ sq(x).T),
    "cholesky upper": lambda x: torch.linalg.cholesky(sq(x) @ sq(x).T, upper=True),
    "eigh": lambda x: torch.linalg.eigh(sq(x) @ sq(x).T)[1].square(),
    "eigvalsh": lambda x: torch.linalg.eigvalsh(sq(x) @ sq(x).T, UPLO="U"),
    "addbmm": lambda x: torch.addbmm(x[:4].view(2, 2), steps(x), steps(x), beta=2, alpha=0.5),
    "baddbmm": lambda x: torch.baddbmm(steps(x), steps(x), steps(x), beta=0.3),
    "addmm in a loop": betas,
    "trace": lambda x: sq(x).trace() * x,
    "matrix_exp of several": lambda x: torch.linalg.matrix_exp(steps(x)),
    "qr": lambda x: torch.linalg.qr(x.reshape(4, 3))[0] * torch.arange(3),
    "qr wide": lambda x: torch.linalg.qr(m(x))[1],
    "qr r": lambda x: torch.linalg.qr(sq(x), mode="complete")[1],
    "svd": svd_product(False),
    "svd full": svd_product(True),
    "svdvals": lambda x: torch.linalg.svdvals(m(x)),
    "cross": lambda x: torch.linalg.cross(x.reshape(3, 4), m(x.sin()), dim=0),
}
ELEMENTS: dict[str, Case] = {
    "nan_to_num": lambda x: torch.nan_to_num(x / 0.0 * 0.0, nan=3.0) * x,
    "nan_to_num all": lambda x: torch.nan_to_num(torch.log(x * 0) * x, 3.0, 4.0, 5.0) * x,
    "view dtype": lambda x: x.view(torch.int64) * 1e-18 * x,
    "view wider": lambda x: x.view(torch.int32).view(torch.int64) * 1e-18 * x,
    "xlogy": lambda x: torch.xlogy(torch.arange(12), x.exp()),
    "xlogy number": lambda x: torch.xlogy(2, x.exp()),
    "xlog1py": lambda x: torch.special.xlog1py(torch.arange(12), x.exp()),
    "poisson": lambda x: torch.distributions.Poisson(x.exp()).log_prob(torch.arange(12)),
    "clamp": lambda x: x.clamp(-0.5, 0.5) * x,
    "clamp_max": lambda x: torch.clamp_max(x, 0.2) * x,
    "clamp tensors": lambda x: torch.clamp(x, x.cos() - 1, x.sin() + 0.1),
    "alpha in a loop": alphas,
    "floor_divide": lambda x: x.detach() // 0.3 * x,
    "divided, truncated": lambda x: torch.div(x, 0.3, rounding_mode="trunc") * x,
    "mvlgamma": lambda x: torch.mvlgamma(x.exp() + 2, 3),
    "celu": lambda x: F.celu(x, 0.5),
    "mish": F.mish,
    "glu": lambda x: F.glu(m(x)) + F.glu(m(x), 1),
    "hardswish": lambda x: F.hardswish(4 * x),
    "hardsigmoid": lambda x: F.hardsigmoid(4 * x),
    "relu6": lambda x: F.relu6(5 * x),
    "logit": lambda x: torch.logit(p(x), 0.3),
    "sinc": torch.sinc,
    "frac": torch.frac,
    "copysign": lambda x: torch.copysign(x, x.roll(1).detach()),
    "degrees": lambda x: torch.deg2rad(x) + torch.rad2deg(x),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
}
SHAPES: dict[str, Case] = {
    "pad": lambda x: F.pad(m(x), (-1, 2, 1, -1), value=2.0) ** 2,
    "sort": lambda x: torch.sort(x, stable=True)[0] * torch.arange(12),
    "sort down": lambda x: torch.sort(m(x), dim=0, descending=True)[0] * torch.arange(4),
    "sort.stable": lambda x: (
        ATEN.sort.stable(m(x), stable=True, dim=0, descending=True)[0] * torch.arange(4)
    ),
    "topk": lambda x: torch.topk(m(x), 2, dim=0, largest=False)[0] ** 2,
    "unsafe_split": lambda x: torch.unsafe_split(x, 5)[2] ** 2,
    "unsafe_split_with_sizes": lambda x: torch.unsafe_split_with_sizes(m(x), [1, 3], 1)[1] ** 2,
    "unsafe_chunk": lambda x: torch.unsafe_chunk(m(x), 2, 1)[1] ** 2,
    "index_add": lambda x: torch.index_add(
        m(x), 1, torch.tensor([0, 1, 1]), x[:9].reshape(3, 3), alpha=0.5
    ).square(),
    "var_mean": lambda x: torch.cat(torch.var_mean(m(x), 1)),
    "var_mean corrected": lambda x: torch.cat(
        torch.var_mean(m(x), dim=(0, 1), correction=0, keepdim=True)
    ),
    "std_mean": lambda x: torch.stack(torch.std_mean(m(x))) ** 2,
    "var_mean of all": lambda x: torch.stack(ATEN.var_mean(m(x), False)),
    "std_mean.dim": lambda x: torch.stack(ATEN.std_mean.dim(m(x), [0], False, True)),
    "unfold": lambda x: x.unfold(0, 3, 2) ** 2 * torch.arange(3),
    "unfold rows": lambda x: steps(x).unfold(0, 2, 1) * torch.arange(2),
    "masked_select": lambda x: torch.masked_select(m(x), MASK) * torch.arange(9),
    "safe_softmax": lambda x: ATEN._safe_softmax(
        m(x).masked_fill(torch.tensor([[True], [False], [False]]), -torch.inf), -1
    ).square(),
    "max along": lambda x: m(x).max(1)[0] * m(x).min(0, keepdim=True)[0].sum(),
}
NETWORKS: dict[str, Case] = {
    "batch norm": of(nn.BatchNorm1d(4).eval(), (3, 4)),
    "batch norm of images": of(nn.BatchNorm2d(3).eval(), (1, 3, 2, 2)),
    "batch norm, no training": lambda x: ATEN._native_batch_norm_legit_no_training(
        m(x), None, torch.ones(4), torch.arange(4.0), torch.arange(1.0, 5.0), 0.1, 1e-5
    )[0],
    "batch norm without statistics": of(
        nn.BatchNorm1d(4, track_running_stats=False).eval(), (3, 4)
    ),
    "instance norm": lambda x: F.instance_norm(channels(x)) ** 2,
    "group norm": of(nn.GroupNorm(2, 4), (1, 4, 3)),
    "group norm alone": lambda x: F.group_norm(channels(x), 2) ** 3,
    "layer norm": of(nn.LayerNorm(4), (3, 4)),
    "avg_pool1d": lambda x: F.avg_pool1d(channels(x), 2) ** 2,
    "avg_pool2d": lambda x: F.avg_pool2d(image(x), 2, 1, padding=1) ** 2,
    "avg_pool2d inside": lambda x: F.avg_pool2d(image(x), (2, 3), 2, 1, True, False) ** 2,
    "avg_pool2d ceil": lambda x: F.avg_pool2d(image(x), 2, 3, 1, True) ** 2,
    "avg_pool2d divided": lambda x: F.avg_pool2d(image(x), 2, divisor_override=3) ** 2,
    "max_pool1d": lambda x: F.max_pool1d(channels(x), 2) ** 2,
    "max_pool2d": lambda x: F.max_pool2d(image(x), 2, ceil_mode=True) ** 2,
    "max_pool2d spread": lambda x: F.max_pool2d(image(x), 2, 1, padding=1, dilation=2) ** 2,
    "attention": lambda x: attention(
        x,
    ),
    "attention causal": lambda x: attention(x, is_causal=True),
    "attention masked": lambda x: attention(x, attn_mask=torch.eye(3).bool(), scale=0.3),
    "GRU": of(nn.GRU(2, 3, num_layers=2, bidirectional=True), (3, 2, 2)),
    "LSTM": of(nn.LSTM(2, 3), (3, 2, 2)),
    "RNN": of(nn.RNN(2, 3, batch_first=True), (3, 2, 2)),
    "GRUCell": of(nn.GRUCell(2, 3), (6, 2)),
    "LSTMCell": of(nn.LSTMCell(2, 3), (6, 2)),
}
LOSSES: dict[str, Case] = {
    "nll": lambda x: F.nll_loss(m(x), CLASSES),
    "nll none": lambda x: F.nll_loss(m(x), CLASSES, reduction="none") ** 2,
    "nll sum weighted": lambda x: F.nll_loss(m(x), CLASSES, torch.arange(4.0), reduction="sum"),
    "nll mean weighted": lambda x: F.nll_loss(m(x), CLASSES, torch.arange(1.0, 5.0)),
    "nll ignored": lambda x: F.nll_loss(m(x), torch.tensor([0, -100, 1])),
    "nll of one": lambda x: F.nll_loss(x, torch.tensor(3)),
    "cross entropy": lambda x: F.cross_entropy(m(x), CLASSES, torch.arange(4.0)),
    "cross entropy of images": lambda x: F.cross_entropy(
        x.reshape(1, 3, 2, 2), torch.tensor([[[0, 2], [1, 1]]])
    ),
    "cross entropy smoothed": lambda x: F.cross_entropy(m(x), CLASSES, label_smoothing=0.1),
    "mse": lambda x: F.mse_loss(x, torch.ones(12)),
    "mse none": lambda x: F.mse_loss(m(x), torch.ones(3, 4), reduction="none") ** 2,
    "l1": lambda x: F.l1_loss(x, torch.ones(12), reduction="sum"),
    "huber": lambda x: F.huber_loss(4 * x, torch.ones(12), delta=0.7),
    "smooth l1": lambda x: F.smooth_l1_loss(4 * x, torch.ones(12), beta=0.7),
    "binary cross entropy": lambda x: F.binary_cross_entropy(p(x), p(x.roll(1)).detach() * 0 + 0.3),
    "binary cross entropy weighted": lambda x: F.binary_cross_entropy(
        p(x), torch.ones(12), torch.arange(12.0), reduction="sum"
    ),
    "binary cross entropy of logits": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.full((12,), 0.3), pos_weight=torch.full((12,), 2.0)
    ),
}
CASES = NORMS | LINEAR | ELEMENTS | SHAPES | NETWORKS | LOSSES
TIES: dict[str, Case] = {
    "norm": lambda x: x.norm() + m(x).norm(3, dim=1).sum() + x.norm(1),
    "cdist": lambda x: torch.cdist(m(x), torch.zeros(2, 4)),
    "std": lambda x: x.std(),
    "clamp": lambda x: x.clamp(0, 1) + x.clamp(-1, 0) + torch.clamp_max(x, 0),
    "hardtanh": lambda x: F.relu6(x) + F.hardtanh(x, -1, 0),
    "leaky_relu": lambda x: F.leaky_relu(x) + F.celu(x, 2.0) + F.relu(x),
    "hardswish": lambda x: F.hardswish(x + 3) + F.hardswish(x - 3),
    "max": lambda x: m(x).max(0)[0] + m(x).min(0)[0] + x.max(),
    "max_pool2d": lambda x: F.max_pool2d(image(x), 2),
    "sort": lambda x: torch.sort(x, descending=True, stable=True)[0] * torch.arange(12),
}

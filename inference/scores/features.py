"""Features of images, in which generated ones are compared with real ones."""

from __future__ import annotations

import os
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.checkpoint import read_state, write_state

KIND = "image classifier"
HELD_OUT = 0.1  # of the images, for the accuracy


class ClassifierFeatures(nn.Module):
    """The last hidden layer of a small convolutional classifier.

    Args:
        shape: colours, height and width of an image.
        classes: how many.
        num_features: width of that layer.

    Attributes:
        num_features: as given.
        accuracy: on images held out of its training, nan before.

    Shapes:
        ``(n, height, width)``, ``(n, colours, height, width)`` or flat ``(n, pixels)``, in [0, 1],
        to ``(n, num_features)``.
    """

    accuracy: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int, num_features: int = 32) -> None:
        super().__init__()
        if min(*shape, classes, num_features) < 1:
            raise ValueError(
                "shape, classes, num_features: expected sizes of at least 1, got "
                f"{shape}, {classes} and {num_features}"
            )
        self.shape, self.classes, self.num_features = tuple(shape), classes, num_features
        colours, height, width = shape
        size = 64 * (-(-height // 4)) * (-(-width // 4))
        self.net = nn.Sequential(
            nn.Conv2d(colours, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(size, num_features),
        )
        self.last = nn.Linear(num_features, classes)
        self.register_buffer("accuracy", torch.tensor(float("nan")))

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        found: Tensor = self.net(images.reshape(-1, *self.shape))
        return found

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log probabilities of the classes ``(n, classes)``."""
        found: Tensor = self.last(F.silu(self(images)))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights, the accuracy among them: beside, then renamed into place."""
        sizes = [*self.shape, self.classes, self.num_features]
        write_state(path, {"sizes": sizes, "weights": self.state_dict()}, kind=KIND)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: for a missing, truncated or foreign file.
        """
        state = read_state(path, kind=KIND)
        *shape, classes, num_features = state["sizes"]
        found = cls((shape[0], shape[1], shape[2]), classes, num_features)
        found.load_state_dict(state["weights"])
        return found.eval()


def classifier_features(
    images: Tensor,
    labels: Tensor,
    *,
    num_features: int = 32,
    epochs: int = 40,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> ClassifierFeatures:
    """Train a small classifier, for its features.

    Distances by features of networks that were trained on other images than one's own say little
    of digits or of microscopy; those of a classifier of the same data look at what its classes
    differ in. They are of no use between papers: compare with a floor of real images, and within
    one extractor.

    Args:
        images: ``(n, height, width)`` or ``(n, colours, height, width)`` in [0, 1].
        labels: ``(n,)``, whole numbers from 0.
        num_features: at most a tenth of the images that will be compared.
        epochs: passes over nine tenths of the images, in minibatches of 100.
        learning_rate: Adam's at first; it falls along a cosine to nothing.
        seed: of weights and minibatches; the global generator is left as it is.

    Raises:
        ValueError: for other shapes, fewer than 20 images, or labels that are no classes.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> digits = load_digits()
        >>> images = torch.tensor(digits.images[:300]).float() / 16
        >>> features = classifier_features(images, torch.tensor(digits.target[:300]), epochs=1)
        >>> features(images).shape
        torch.Size([300, 32])
    """
    if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or len(images) < 20:
        raise ValueError(
            "images, labels: expected (n, height, width) or (n, colours, height, width) and (n,), "
            f"n at least 20, got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise ValueError(
            f"labels: expected whole numbers from 0, got {labels.dtype} from {labels.min()}"
        )
    colours, height, width = (1, *images.shape[1:])[-3:]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        order = torch.randperm(len(images)).to(images.device)
        held, used = order.tensor_split([round(HELD_OUT * len(order))])
        network = ClassifierFeatures((colours, height, width), int(labels.max()) + 1, num_features)
        network.to(images)
        _train(network, images[used], labels[used], epochs, learning_rate)
    network.eval()
    with torch.no_grad():
        right = network.logits(images[held]).argmax(-1) == labels[held]
        network.accuracy.copy_(right.float().mean())
    return network


def _train(
    network: ClassifierFeatures, images: Tensor, labels: Tensor, epochs: int, learning_rate: float
) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(epochs, 1))
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).to(images.device).split(100):
            optimiser.zero_grad()
            F.cross_entropy(network.logits(images[rows]), labels[rows]).backward()
            optimiser.step()
        schedule.step()


class InceptionFeatures(nn.Module):
    """The 2,048 pooled features of FID's Inception network, whose weights you have.

    Args:
        weights: file of the published weights, ``pt_inception-2015-12-05-6726825d.pth``. It is read
            as PyTorch files are, by torch-fidelity: take it from nowhere else than its source.

    Raises:
        ModuleNotFoundError: without torch-fidelity (``pip install torch-fidelity``).
        FileNotFoundError: no such file.

    Shapes:
        ``(n, height, width)`` or ``(n, colours, height, width)`` of one or three colours in [0, 1],
        of any size, to ``(n, 2048)``.
    """

    num_features = 2048

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        if not os.path.exists(weights):
            raise FileNotFoundError(f"weights: expected a file, found none at {weights}")
        from torchmetrics.image import fid  # takes seconds to import

        self.network = fid.NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=["2048"],
            feature_extractor_weights_path=os.fspath(weights),
        )

    def forward(self, images: Tensor) -> Tensor:
        """The features."""
        grey = images.unsqueeze(1) if images.ndim == 3 else images
        colours = grey.expand(-1, 3, -1, -1) if grey.shape[1] == 1 else grey
        found: Tensor = self.network((255 * colours.clamp(0, 1)).round().byte())
        return found

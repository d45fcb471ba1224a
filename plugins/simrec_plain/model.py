"""The plain autoencoder: a short code from which the picture and its edges are rebuilt.

With preset `taught`, the code must also predict what a network trained on photos sees in the picture; that network is
only needed for training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from simrec.contracts import setting
from simrec.learning.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.learning.networks import (
    ArticleMLP,
    Network,
    PrincipalTarget,
    SphereNetwork,
    bernoulli_loss,
    squared_loss,
)


@dataclass(frozen=True, kw_only=True)
class PlainSettings(ConvSettings):
    """Settings of the plain autoencoder."""

    epochs: int = setting(12, "maximum number of passes over the pictures")
    network: Literal["conv", "mlp", "taught"] = setting(
        "conv", "conv: code on a sphere; mlp: the article's, with widths as layers; taught: conv with a teacher"
    )
    teacher: str = setting("lite2@112", "which network of the encoder photo teaches, and at which size: TOWER@SIZE")
    taught: int = setting(64, "how many of the teacher's numbers a code must predict")
    neighbours: int = setting(10, "how many nearest pictures' numbers are averaged with a picture's own")
    taught_weight: float = setting(100.0, "weight of such a number's squared error against a nat of the picture")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.taught < 1:
            raise ValueError(f"taught is {self.taught}: it must be 1 or more")


class TaughtNetwork(SphereNetwork):
    """A `SphereNetwork` whose code must also predict what a pretrained network sees in the picture.

    Learning from a network's features instead of labels is distillation (Romero et al. 2015, arXiv:1412.6550). The
    teacher itself was trained with ImageNet's labels; it sees each picture once, before the first epoch.
    """

    teacher: PrincipalTarget

    def more_numbers(self) -> int:
        """The teacher's numbers."""
        return int(self.settings.taught)

    def prepare(self, images: Tensor) -> None:
        """Fits both targets."""
        super().prepare(images)
        sample = images[:: max(1, len(images) // PrincipalTarget.SAMPLE)]
        self.teacher = PrincipalTarget(torch.cat(list(self._seen(sample))), self.settings.taught)

    def examples(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Pictures (n, c, h, w), their edge numbers (n, edges) and the teacher's numbers (n, taught)."""
        pictures, edges = super().examples(images, generator)
        numbers = torch.cat([self.teacher.of(part) for part in self._seen(images)])
        if self.settings.neighbours:
            numbers = smoothed(numbers, torch.cat([edges, numbers], 1), self.settings.neighbours)
        return pictures, edges, numbers

    def prediction_loss(self, bottleneck: Tensor, x: Tensor, *targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a bottleneck (n, dim) in predicting pictures (n, c, h, w), edges and the teacher's numbers."""
        edges, taught = targets
        logits, predicted = self.decoder.both(bottleneck)
        rebuilt = bernoulli_loss(logits, x)
        missed = squared_loss(predicted[:, : self.edges], edges)
        unlearned = squared_loss(predicted[:, self.edges :], taught)
        total = rebuilt + self.settings.edge_weight * missed + self.settings.taught_weight * unlearned
        return total, {"rebuilt": rebuilt.detach(), "edges": missed.detach(), "taught": unlearned.detach()}

    def _seen(self, images: Tensor) -> Iterator[Tensor]:
        """What the teacher sees of images uint8 (n, c, h, w): float32 (some, f) at a time."""
        from simrec_photo.model import View, seen

        view = View.of(self.settings.teacher)
        for part in seen(images.permute(0, 2, 3, 1).cpu().numpy(), view.tower, view.size):
            yield torch.from_numpy(part).to(images.device)


def smoothed(numbers: Tensor, described: Tensor, neighbours: int) -> Tensor:
    """Numbers (n, k), each row averaged with its nearest others' by descriptions (n, m), at its original length."""
    unit = F.normalize(described, dim=1)
    means = torch.empty_like(numbers)
    for start in range(0, len(numbers), 1000):
        near = (unit[start : start + 1000] @ unit.T).topk(min(neighbours + 1, len(unit)), dim=1).indices
        means[start : start + 1000] = numbers[near].mean(1)
    scaled: Tensor = F.normalize(means, dim=1) * numbers.norm(dim=1, keepdim=True)
    return scaled


class Plain(NetworkAutoencoder):
    """Gets slightly changed pictures and rebuilds the originals. Preset `article`: the 2018 article's network."""

    Settings = PlainSettings
    networks: ClassVar[Mapping[str, type[Network]]] = {
        "conv": SphereNetwork, "mlp": ArticleMLP, "taught": TaughtNetwork,
    }  # fmt: skip
    presets: ClassVar[Mapping[str, PlainSettings]] = {
        "default": PlainSettings(),
        "best": PlainSettings(epochs=20, stem=64, widths=(128, 256)),
        "taught": PlainSettings(network="taught", epochs=16, widths=(128, 256)),
        "photo": PlainSettings(size=64, channels=3, recipe="photo", epochs=40),
        "article": PlainSettings(
            network="mlp", widths=(2000, 500, 500), decoder=(500, 500, 2000), dim=10, epochs=500, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip

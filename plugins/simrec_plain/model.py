"""The plain autoencoder: a short code that the picture and its edges are rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from simrec.contracts import setting
from simrec.learning.autoencoder import ConvSettings, NetworkAutoencoder
from simrec.learning.networks import ArticleMLP, Network, SphereNetwork


@dataclass(frozen=True, kw_only=True)
class PlainSettings(ConvSettings):
    """Settings of the plain autoencoder."""

    epochs: int = setting(12, "passes over the pictures, at most")
    network: Literal["conv", "mlp"] = setting("conv", "conv: code on a sphere; mlp: the article's, widths its layers")


class Plain(NetworkAutoencoder):
    """Fed pictures a little changed, it rebuilds them as they were. Preset `article`: the 2018 article's network."""

    Settings = PlainSettings
    networks: ClassVar[Mapping[str, type[Network]]] = {"conv": SphereNetwork, "mlp": ArticleMLP}
    presets: ClassVar[Mapping[str, PlainSettings]] = {
        "default": PlainSettings(),
        "best": PlainSettings(epochs=20, stem=64, widths=(128, 256)),
        "article": PlainSettings(
            network="mlp", widths=(2000, 500, 500), decoder=(500, 500, 2000), dim=10, epochs=500, patience=10,
            batch_size=2048, optimizer="adam", learning_rate=1e-3, schedule="constant",
        ),
    }  # fmt: skip

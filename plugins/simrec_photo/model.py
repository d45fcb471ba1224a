"""The pretrained networks that come with simrec, as an encoder: it learns which directions of features to keep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import onnx
from simrec_onnx.axes import Features
from simrec_onnx.graphs import Feed, Graph, Pooling, Tower, common_opset
from simrec_onnx.model import TowerEncoder, check_axes, features_of

from simrec.contracts import Images, ImageSpec, Interpolation, Recipe, setting
from simrec.errors import RequestError, reason

TOWERS = Path(__file__).parent / "towers"
"""Where the networks are, each made by `simrec_photo.towers`."""

_VIEW = re.compile(r"(?P<tower>\w+)@(?P<size>\d+)(?P<mirrored>\+mirrored)?")


@dataclass(frozen=True)
class View:
    """One look at a picture: through a tower, at a size in pixels. mirrored: averaged with its mirror image."""

    tower: str
    size: int
    mirrored: bool = False

    @classmethod
    def of(cls, text: str) -> View:
        """A view as people write it: lite2@320, or lite2@320+mirrored. Raises ValueError for any other text."""
        match = _VIEW.fullmatch(text.strip())
        names = sorted(path.stem for path in TOWERS.glob("*.onnx"))
        if not match or match["tower"] not in names or not 32 <= int(match["size"]) <= 1024:
            raise ValueError(
                f"view {text!r}: must read TOWER@SIZE or TOWER@SIZE+mirrored, TOWER one of {', '.join(names)}, SIZE "
                f"32 to 1,024 pixels"
            )
        return cls(match["tower"], int(match["size"]), bool(match["mirrored"]))


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """Settings of the pretrained networks."""

    views: tuple[str, ...] = setting(("lite2@320",), "how to look at a picture: TOWER@SIZE each, or with +mirrored")
    recipe: Recipe = setting("photo", "how a picture is prepared: photo (letterboxed), crop or squash")
    interpolation: Interpolation = setting("lanczos", "how it is scaled: lanczos, bicubic or bilinear")
    pooling: Pooling = setting("gem", "places to one vector: gem (root mean square), mean, weighted or max")
    dim: int = setting(128, "maximum numbers in a code")
    smoothing: float = setting(0.2, "how far pictures move towards their neighbours: 0 not at all, 1 fully")
    whitening: float = setting(0.0, "how far axes are whitened: 0 not at all, 1 fully")
    copies: int = setting(0, "changed copies of each picture to learn from, which makes training longer; 0: none")

    def __post_init__(self) -> None:
        check_axes(self)
        if self.pooling == "cls":
            raise ValueError("pooling is cls: these networks have places, no tokens")
        if not self.views:
            raise ValueError("views is empty: name at least one, such as lite2@320")
        for view in self.views:
            View.of(view)
        ImageSpec(self.size, 3, self.recipe, 2, self.interpolation)

    @property
    def size(self) -> int:
        """Height and width of the encoder's images in pixels: those of the largest view."""
        return max(View.of(view).size for view in self.views)


PRESETS = {
    "default": PhotoSettings(),
    "tiny": PhotoSettings(views=("lite0@256",), smoothing=0.5),
    "best": PhotoSettings(views=("lite0@288", "lite2@320", "lite2@384+mirrored"), smoothing=0.5),
    "trained": PhotoSettings(smoothing=0.5, copies=3),
}
"""tests/benchmarks/README.md has what was tried; `tests/benchmarks/photo_variants.py` measures it.

More smoothing finds more of a kind, but tells two photos of one thing apart less well. The default smooths only so far
that a cropped and recoloured photo still finds its original (`tests/benchmarks/photo_adaptation.py`); `tiny` and `best`
still find it with more smoothing. `trained` finds slightly more of a kind than the default, and the same photo slightly
less often, but in folders of up to fifty pictures more often.
"""


class Photo(TowerEncoder):
    """The features of networks that learned from ImageNet what is in a photo, reduced to their main axes.

    Several views are put side by side, each scaled to length 1.
    """

    Settings = PhotoSettings
    presets: ClassVar[Mapping[str, PhotoSettings]] = PRESETS

    def __init__(self, settings: PhotoSettings) -> None:
        super().__init__(settings)
        self.settings: PhotoSettings = settings
        self.input = ImageSpec(settings.size, 3, settings.recipe, 2, settings.interpolation)
        self.views = [View.of(view) for view in settings.views]

    def check(self) -> None:
        """Raises RequestError for a network that is missing or damaged."""
        self.opset()

    def opset(self) -> int:
        """The towers' opset."""
        return common_opset([tower(view.tower) for view in self.views])

    def compose(self, graph: Graph) -> str:
        """Each view's features, side by side."""
        features = []
        for view in self.views:
            pictures = "images" if view.size == self.input.size else graph.resized("images", self.input.size, view.size)
            pooled = self._pooled(graph, view, pictures)
            if view.mirrored:
                pooled = graph.add("Add", pooled, self._pooled(graph, view, graph.mirrored(pictures)))
            features.append(pooled if len(self.views) == 1 else graph.unit(pooled))
        return features[0] if len(features) == 1 else graph.add("Concat", *features, axis=1)

    def _pooled(self, graph: Graph, view: View, pictures: str) -> str:
        return graph.pooled(graph.tower(tower(view.tower), pictures, Feed()), 4, self.settings.pooling)

    def summary(self) -> str:
        """The views in one line."""
        line = f"Looking through {', '.join(self.settings.views)}: a code is at most {self.settings.dim} numbers."
        if self.settings.copies:
            line += f" It learns from {self.settings.copies} changed copies of each picture, which takes minutes."
        return line


def seen(images: Images, name: str, size: int) -> Iterator[Features]:
    """A tower's features of images (n, h, w, c), scaled to a size in pixels: float32 (some, f) at a time."""
    height, width, channels = images.shape[1:]
    if height != width:
        raise ValueError(f"images are {height} x {width}: they must be square")
    graph = Graph(common_opset([tower(name)]))
    colour = "images" if channels == 3 else graph.add("Concat", *["images"] * 3, axis=3)
    scaled = colour if height == size else graph.resized(colour, height, size)
    features = graph.pooled(graph.tower(tower(name), scaled, Feed()), 4, "weighted")
    model = graph.model(ImageSpec(height, channels, "photo"), features, "features", ["n", None])
    yield from features_of(model, images)


@cache
def tower(name: str) -> Tower:
    """A network that comes with simrec. Raises RequestError if it is missing or damaged."""
    path = TOWERS / f"{name}.onnx"
    try:
        return Tower.of(onnx.load(path))
    except Exception as error:  # protobuf's exceptions share no base class with the disk's
        raise RequestError(f"{path}: cannot be read ({reason(error)}): install simrec again") from error

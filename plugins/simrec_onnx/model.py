"""A vision model in an ONNX file as an encoder: it doesn't train layers, it only learns which directions to keep.

Nothing here needs torch: `simrec_onnx.graphs` makes the graph, and ONNX Runtime runs it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
import onnxruntime

from simrec import onnx_graph
from simrec.contracts import (
    Codes,
    Epoch,
    History,
    Images,
    ImageSpec,
    Interpolation,
    Progress,
    Recipe,
    setting,
)
from simrec.errors import ImageError, PluginError, RequestError, TrainingError, reason
from simrec_onnx import agreement, axes
from simrec_onnx.axes import Axes, Features
from simrec_onnx.graphs import Feed, Graph, Pooling, Tower, TowerError, opset

SAMPLE = 4_000
"""Maximum number of pictures for computing the axes: several times the numbers in a code."""

NUMBERS = 1 << 20
"""How many of the pictures' numbers a core gets at a time."""


class TowerEncoder:
    """The base of encoders made of vision towers: a graph from pictures to features, and axes that are learned.

    A subclass sets `Settings` (with `dim`, `smoothing`, `whitening`, `copies`), `presets` and `input`, and implements
    `compose` and `opset`.
    """

    Settings: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    sample = SAMPLE
    input: ImageSpec

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.dim: int = settings.dim
        self._graph = b""

    def compose(self, graph: Graph) -> str:
        """Adds the nodes from `images` uint8 (n, h, w, c) to features float32 (n, f); returns the features' name."""
        raise NotImplementedError

    def opset(self) -> int:
        """The opset of the graph."""
        raise NotImplementedError

    def fit(
        self,
        images: Images,
        *,
        validation: Images,
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[Progress], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> History:
        """Computes the main axes of a sample's features, or learns axes from copies of the pictures, in one epoch.

        The device doesn't matter, and the seed only if there are copies; `stop` is called after each pass over the
        pictures or their features. The losses are the shares of variance that a code does not hold (see
        `simrec_onnx.axes.lost`). Raises RequestError or TrainingError for a model that can't be used, for fewer than
        two pictures, and for pictures that all look the same.
        """
        begun = time.perf_counter()
        self._check(images)
        if len(images) < 2:
            raise TrainingError(f"learning needs at least 2 pictures, not {len(images)}")
        graph = Graph(self.opset())
        features = self.compose(graph)
        whole = graph.model(self.input, features, "features", ["n", None])
        session = _session(_checked(whole))
        sample = images[:: max(1, len(images) // SAMPLE)][:SAMPLE]
        held_out = validation[:: max(1, len(validation) // 500)]
        copies: int = self.settings.copies
        done, steps = 0, (1 + copies) * len(sample) + (agreement.steps(len(sample)) if copies else 0) + 1

        def step(count: int = 1) -> None:
            nonlocal done
            done += count
            # As long as no axis is known, a code holds nothing of the variance.
            progress(Progress(1, 1, done, steps, loss=1.0, validation_loss=None))

        def seen(number: int) -> Features:
            parts = list[Features]()
            for part in _run(session, sample, "features", partial(agreement.changed, seed=seed, number=number)):
                parts.append(part)
                step(len(part))
            return np.concatenate(parts)

        exact = seen(0)
        projection = self._axes(exact)
        known = [exact]
        while len(known) <= copies and not stop():
            known.append(seen(len(known)))
        if copies and len(known) > copies:  # with fewer copies, the same picture is found less often
            projection = agreement.agreeing(projection, known, seed=seed, step=step, stop=stop)
        self.dim = projection.matrix.shape[1]
        codes = graph.projected(features, projection.mean, projection.matrix, projection.shift, unit=projection.unit)
        self._learn(graph.model(self.input, codes, "codes", ["n", self.dim]))
        losses = [axes.lost(projection, exact, exact)] * 2
        if len(held_out):
            losses[1] = axes.lost(projection, np.concatenate(list(_run(session, held_out, "features"))), exact)
        progress(Progress(1, 1, steps, steps, loss=losses[0], validation_loss=None))
        epoch = Epoch(1, losses[0], losses[1], {}, time.perf_counter() - begun)
        return History((epoch,), kept=1, ended="interrupted" if stop() else "finished")

    def _axes(self, features: Features) -> Axes:
        given = self.settings
        return axes.learned(features, given.dim, smoothing=given.smoothing, whitening=given.whitening)

    def encode(self, images: Images) -> Codes:
        """Images (n, h, w, c) to codes (n, dim). Raises ImageError for another shape or dtype."""
        self._check(images)
        parts = _run(self._session, images, "codes")
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def save(self, folder: Path) -> None:
        """Writes encoder.onnx and settings.json."""
        (folder / "encoder.onnx").write_bytes(self._learned())
        (folder / "settings.json").write_text(json.dumps(asdict(self.settings)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder that `save` wrote there."""
        values = json.loads((folder / "settings.json").read_text())
        encoder = cls(cls.Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}))
        encoder._graph = (folder / "encoder.onnx").read_bytes()
        encoder.dim = encoder._session.get_outputs()[0].shape[1]
        return encoder

    def _learn(self, model: onnx.ModelProto) -> None:
        self._graph = _checked(model)
        self.__dict__.pop("_session", None)

    def _learned(self) -> bytes:
        if not self._graph:
            raise PluginError("this encoder has learned nothing yet: fit or load it first")
        return self._graph

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return _session(self._learned())

    def _check(self, images: Images) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(
                f"images are {images.dtype} {images.shape}, this encoder takes uint8 (n, {self.input.size}, "
                f"{self.input.size}, {self.input.channels}): set size and channels, or prepare the images"
            )


def features_of(model: onnx.ModelProto, images: Images) -> Iterator[Features]:
    """A graph's `features` for `images` (n, h, w, c), float32 (some, f) at a time.

    Raises RequestError for a graph that can't be loaded, TrainingError for one that can't be run.
    """
    yield from _run(_session(_checked(model)), images, "features")


def _run(
    session: onnxruntime.InferenceSession,
    images: Images,
    name: str,
    change: Callable[[Images, int], Images] = lambda images, first: images,
) -> Iterator[Features]:
    """As `features_of`. Each core takes a few pictures at a time, so that their layers stay in its cache.

    change: is applied first to each batch of images, with the row of its first image.
    """
    step = max(1, NUMBERS // math.prod(images.shape[1:]))

    def compute(start: int) -> Features:
        fed = np.ascontiguousarray(change(images[start : start + step], start))
        try:
            (features,) = session.run([name], {"images": fed})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise TrainingError(f"the model cannot be run on these pictures: {_first_line(error)}") from error
        result: Features = features
        return result

    with ThreadPoolExecutor(os.cpu_count()) as cores:
        yield from cores.map(compute, range(0, len(images), step))


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    """Raises RequestError for a graph that ONNX Runtime can't load."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # see `_run`
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise RequestError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


def _checked(model: onnx.ModelProto) -> bytes:
    """The graph's bytes. Raises RequestError for one that simrec wouldn't run."""
    try:
        data: bytes = model.SerializeToString()
        onnx_graph.check(data)
    except ValueError as error:  # protobuf's own too, for more than 2 GB
        raise RequestError(f"simrec does not run this model, as {error}") from error
    return data


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def check_axes(settings: Any) -> None:
    """Raises ValueError for an invalid dim, smoothing or whitening, and for too many copies."""
    if settings.dim < 1:
        raise ValueError(f"dim is {settings.dim}: it must be 1 or more")
    for name in ("smoothing", "whitening"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is {getattr(settings, name)}: it must be from 0 to 1")
    if not 0 <= settings.copies <= 20:
        raise ValueError(f"copies is {settings.copies}: it must be from 0 to 20")


@dataclass(frozen=True, kw_only=True)
class OnnxSettings:
    """Settings of a vision model in an ONNX file."""

    model: str = setting("", "an .onnx file that takes pictures, or hf:OWNER/NAME/FILE.onnx on the Hugging Face hub")
    size: int = setting(224, "height and width of a picture, in pixels")
    channels: int = setting(3, "1 for grey, 3 for RGB")
    recipe: Recipe = setting("photo", "how a picture is prepared: photo (letterboxed), crop, squash or fashion")
    interpolation: Interpolation = setting("bicubic", "how it is scaled: lanczos, bicubic or bilinear")
    crop_pct: float = setting(1.0, "the share of the shortest edge that the recipe crop keeps")
    mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "what is subtracted from each channel, in 0..1")
    std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "what each channel is then divided by")
    output: str = setting("", "the output that gives features; empty: the only one, or the usual one")
    pooling: Pooling = setting(
        "auto", "tokens or places to one vector: cls, mean, weighted (by their norm), max or auto"
    )
    prefix: int = setting(1, "tokens before those of patches (CLS and registers), which mean and weighted leave out")
    dim: int = setting(64, "maximum numbers in a code")
    smoothing: float = setting(0.0, "how far pictures move towards their neighbours: 0 not at all, 1 fully")
    whitening: float = setting(0.0, "how far axes are whitened: 0 not at all, 1 fully")
    copies: int = setting(0, "changed copies of each picture to learn from, which makes training longer; 0: none")

    def __post_init__(self) -> None:
        check_axes(self)
        if self.prefix < 0:
            raise ValueError(f"prefix is {self.prefix}: it must be 0 or more")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers: give one for each channel")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std is {', '.join(map(str, self.std))}: it must be more than 0")
        ImageSpec(self.size, self.channels, self.recipe, 2, self._interpolation, self.crop_pct)

    @property
    def _interpolation(self) -> Interpolation:
        return "lanczos" if self.recipe == "fashion" else self.interpolation


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

PRESETS = {
    "default": OnnxSettings(),
    "siglip2": OnnxSettings(recipe="squash", interpolation="bilinear", mean=HALF, std=HALF),
    "clip": OnnxSettings(recipe="crop", mean=CLIP_MEAN, std=CLIP_STD),
    "mobileclip": OnnxSettings(size=256, recipe="crop", interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3),
    "dinov2": OnnxSettings(recipe="crop", crop_pct=0.875, pooling="cls"),
    "dinov2-registers": OnnxSettings(recipe="crop", crop_pct=0.875, pooling="cls", prefix=5),
    "dinov3": OnnxSettings(recipe="squash", interpolation="bilinear", pooling="cls", prefix=5),
    "pe": OnnxSettings(recipe="squash", interpolation="bilinear", mean=HALF, std=HALF),
    "fashionsiglip": OnnxSettings(recipe="squash", mean=HALF, std=HALF),
    "fashionclip": OnnxSettings(recipe="crop", mean=CLIP_MEAN, std=CLIP_STD),
    "torchvision": OnnxSettings(recipe="crop", interpolation="bilinear", crop_pct=0.875),
    "swin": OnnxSettings(recipe="crop", crop_pct=0.9655),
}
"""How the models' makers prepare pictures, all with antialiasing. `size` may have to be set to the model file's.

siglip2: google-research/big_vision, SigLIP2_demo.ipynb (squashed, bilinear), and transformers' SiglipImageProcessor for
mean and std; pooler_output. clip: openai/CLIP, clip/clip.py `_transform`; image_embeds. mobileclip:
apple/ml-mobileclip, mobileclip/__init__.py and configs (256; its B has size=224); image_embeds. dinov2:
transformers, convert_dinov2_to_hf.py; the class token, and with registers four tokens more (convert_dinov2_with_
registers_to_hf.py). dinov3: facebookresearch/dinov3, README "Image transforms", and transformers,
image_processing_dinov3_vit_fast.py. pe: facebookresearch/perception_models, core/vision_encoder/transforms.py.
fashionsiglip, fashionclip: Marqo's were tuned from open_clip's ViT-B-16-SigLIP and ViT-B-16 (open_clip,
pretrained.py, `_slpcfg` and `_pcfg`). torchvision, swin: the IMAGENET1K_V1 weights of ViT and ResNet, and of Swin-T
(torchvision, models/*.py); export them without their classifier.
"""


class Onnx(TowerEncoder):
    """The features of any vision model, reduced to their main axes."""

    Settings = OnnxSettings
    presets: ClassVar[Mapping[str, OnnxSettings]] = PRESETS

    def __init__(self, settings: OnnxSettings) -> None:
        super().__init__(settings)
        self.settings: OnnxSettings = settings
        self.input = ImageSpec(
            settings.size, settings.channels, settings.recipe, 2, settings._interpolation, settings.crop_pct
        )

    def opset(self) -> int:
        """The model's opset."""
        return opset(self._tower.model)

    def check(self) -> None:
        """Raises RequestError for a model that isn't there, or can't be used with these settings."""
        try:
            self._tower.check_size(self.input)
        except TowerError as error:
            raise RequestError(f"model {self.settings.model}: {error}") from error

    def compose(self, graph: Graph) -> str:
        """Normalisation, the model, and pooling. Raises RequestError for a model that can't be used."""
        self.check()
        given, tower = self.settings, self._tower
        try:
            features = graph.tower(tower, "images", Feed(given.mean, given.std))
        except TowerError as error:
            raise RequestError(f"model {given.model}: {error}") from error
        rank = self._rank(graph, features)
        return graph.pooled(features, rank, given.pooling, given.prefix)

    @cached_property
    def _tower(self) -> Tower:
        given = self.settings
        try:
            return Tower.of(_read(given.model), given.output, given.prefix)
        except TowerError as error:
            raise RequestError(f"model {given.model}: {error}") from error

    def _rank(self, graph: Graph, features: str) -> int:
        """How many axes the features have, which models don't always say."""
        data = _checked(graph.model(self.input, features, "features", None))
        (output,) = _session(data).run(None, {"images": np.zeros((2, *self.input.shape), np.uint8)})
        if output.ndim not in (2, 3, 4) or len(output) != 2:
            raise RequestError(
                f"model {self.settings.model}: its output {self._tower.output!r} is {output.shape} for two pictures: "
                f"choose one that is (n, features), (n, tokens, features) or (n, features, h, w)"
            )
        return int(output.ndim)

    def summary(self) -> str:
        """The model in one line."""
        tower = self._tower
        weights = sum(int(np.prod(weight.dims)) for weight in tower.model.graph.initializer)
        return f"{self.settings.model}: {weights:,} weights, features from {tower.output!r}."


HUB = "hf:"


def _read(model: str) -> onnx.ModelProto:
    """The model in a file, or on the hub. Raises RequestError if it isn't there or isn't a model."""
    if not model:
        raise RequestError("which model? name an .onnx file: --set model=FILE.onnx")
    path = _from_hub(model) if model.startswith(HUB) else Path(model).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"model {model}: cannot be read ({error.strerror}): name an .onnx file") from error
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's exceptions share no base class with onnx's
        raise RequestError(f"model {model}: is not an ONNX model ({reason(error)}): name an .onnx file") from error
    if not proto.graph.node:
        raise RequestError(f"model {model}: is not an ONNX model: name an .onnx file")
    if any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in proto.graph.initializer):
        raise RequestError(
            f"model {model}: its weights are in another file: make one file of both with "
            f"onnx.save(onnx.load({path.name!r}), 'whole.onnx')"
        )
    return proto


def _from_hub(model: str) -> Path:
    """The path of a file in the hub's cache; downloads it if it isn't there yet."""
    parts = model.removeprefix(HUB).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise RequestError(f"model {model}: must read hf:OWNER/NAME/FILE.onnx")
    repository, name = "/".join(parts[:2]), parts[2]
    instead = f"get https://huggingface.co/{repository}/resolve/main/{name} and name it with --set model=FILE.onnx"
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise RequestError(f"model {model}: needs huggingface_hub: pip install 'simrec[hub]', or {instead}") from None
    try:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(hf_hub_download(repository, name))
    except Exception as error:  # from the network, the hub or the disk
        raise RequestError(
            f"model {model}: is not in the cache and can't be downloaded ({reason(error)}): {instead}"
        ) from error

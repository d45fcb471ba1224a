"""Training: pictures in, a recommender with an encoder out."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simrec import library, store
from simrec.contracts import Codes, EncoderSpec, History, ImageSpec, Notice, Progress
from simrec.errors import DataError, PluginError, RequestError, StoreError
from simrec.faults import blamed_on, check_attributes, checked_history, collapsed, encoded
from simrec.files import PathText
from simrec.home import home_of
from simrec.manifest import ChangeRecord, EncoderRecord, Manifest, Results, TrainedOn, file_name
from simrec.onnx_graph import check as check_graph
from simrec.recommender import Recommender, silent
from simrec.sources.load import Pictures, collected, load, open_source

if TYPE_CHECKING:
    from simrec.generation import Mixture
    from simrec.host import Offer

SAMPLE = 10_000
"""About how many train pictures' codes are used to learn how the encoder's codes are distributed."""

FEW = 100
"""The same for an encoder without a decoder, where only the share of numbers close to zero is needed."""

HELD_OUT = 10
"""If a source has no test split, every tenth picture is held out for validation."""


@dataclass(frozen=True)
class Plan:
    """What to train: an encoder by name, one of its presets with changes as texts, a seed and a device.

    memory: bytes that the pictures may take, by default a quarter of the machine's; from a larger source, as many as
    fit are drawn evenly. strict: whether a picture that can't be read is an error. command: what the person typed; the
    recommender keeps it.
    """

    encoder: str
    preset: str = "default"
    changes: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    memory: int | None = None
    strict: bool = False
    command: str = "simrec.train"


@dataclass(frozen=True)
class Watch:
    """Functions that a training calls.

    reading: with how many pictures were read, of how many. started: with the encoder and the pictures, just before the
    first epoch. progress: after each step. stop: after each epoch; True ends the training. notice: with one-line
    messages that aren't errors.
    """

    reading: Callable[[int, int], None] = silent
    started: Callable[[Any, Pictures], None] = silent
    progress: Callable[[Progress], None] = silent
    stop: Callable[[], bool] = lambda: False
    notice: Notice = silent


@dataclass(frozen=True)
class _Model:
    """An encoder before training: its offer, its settings, and the encoder itself."""

    offer: Offer[EncoderSpec]
    settings: Any
    encoder: Any


@dataclass(frozen=True)
class _Learned:
    """The result of a training: its history, its files, some codes (n, dim), its seconds, and warnings."""

    history: History
    files: Mapping[str, bytes]
    codes: Codes
    seconds: float
    warnings: tuple[str, ...]


def train(
    plan: Plan | str,
    *,
    name: str | None = None,
    source: PathText = "fashion-mnist",
    data_dir: PathText | None = None,
    home_folder: PathText | None = None,
    replace_catalogue: bool = False,
    watch: Watch | None = None,
) -> tuple[Recommender, History]:
    """Trains an encoder and commits it under a name (by default its own).

    plan: an encoder's name alone stands for its default preset. source: see `simrec.sources.load`. The same seed on the
    same machine gives the same weights.

    Raises RequestError for an unknown or invalid encoder, preset, setting or name, PluginError for a broken plugin,
    DataError for the source, TrainingError for the training, StoreError if it cannot be written or if the name has a
    catalogue and `replace_catalogue` is not set. After any error, what was there before is still there.
    """
    plan = Plan(plan) if isinstance(plan, str) else plan
    watch = watch or Watch()
    model = _model(plan, watch.notice)
    folder = home_of(home_folder) / library.check_name(name or plan.encoder)
    with store.Writer(folder) as writer:  # before the pictures are read, which takes minutes
        _check_replaceable(folder, replace_catalogue)
        _check_device(plan.device)
        if hasattr(model.encoder, "check"):
            with blamed_on(str(model.offer)):
                model.encoder.check()
        examples, held_out = _pictures(source, model.encoder, plan, watch, data_dir)
        learned = _fitted(model, examples, held_out, plan, watch)
        for text in learned.warnings:
            watch.notice(f"{model.offer}: {text}")
        if collapsed(learned.codes):
            watch.notice(
                f"{model.offer}: its codes have collapsed: all pictures have the same one, so look-ups can't tell them "
                f"apart: train it again with other settings, or fix the plugin"
            )
        files = _with_what_codes_tell(learned, model.encoder)
        folder_inside = writer.new("encoder")
        for file, data in files.items():
            writer.write(f"{folder_inside}/{file}", data)
        record = _record(plan, model, learned, files, examples)
        writer.commit(Manifest.new(replace(record, folder=folder_inside), None, ChangeRecord("train")))
    return Recommender(folder), learned.history


def _model(plan: Plan, notice: Notice) -> _Model:
    """The encoder that a plan names, not trained yet."""
    from simrec import host, settings

    plugins = host.discover()
    for failure in plugins.failures:
        notice(str(failure))
    offer = plugins.find(EncoderSpec, plan.encoder)
    kind = host.encoder_class(offer)
    with blamed_on(str(offer)):
        chosen = settings.choose(kind.presets, plan.preset, plan.changes, plan.encoder)
        encoder = kind(chosen)
    check_attributes(encoder, str(offer))
    try:
        json.dumps([settings.to_json(chosen), asdict(encoder.input)])
    except (TypeError, ValueError) as error:
        raise PluginError(f"{offer} has settings that JSON can't keep ({error}): fix the plugin") from error
    return _Model(offer, chosen, encoder)


def _fitted(model: _Model, examples: Pictures, held_out: Pictures, plan: Plan, watch: Watch) -> _Learned:
    """Trains an encoder on examples and validates it on others. Raises PluginError, which names it, for its faults."""
    begun, culprit, encoder = time.perf_counter(), str(model.offer), model.encoder
    with blamed_on(culprit):  # this may show the encoder's own summary
        watch.started(encoder, examples)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with blamed_on(culprit):
            history = encoder.fit(
                examples.images, validation=held_out.images, seed=plan.seed, device=plan.device,
                progress=watch.progress, stop=watch.stop,
            )  # fmt: skip
            history = checked_history(history, culprit)
            check_attributes(encoder, culprit)  # dim may be known only now
            files = _saved(encoder, culprit)
        shown = SAMPLE if hasattr(encoder, "decode") else FEW
        codes = encoded(encoder, examples.images[:: max(1, len(examples) // shown)], encoder.dim, culprit)
    said = tuple(sorted({str(w.message) for w in caught if w.category is UserWarning}))
    return _Learned(history, files, codes, time.perf_counter() - begun, said)


def _with_what_codes_tell(learned: _Learned, encoder: Any) -> dict[str, bytes]:
    """The encoder's files, plus those for the distribution of its codes and the history of its training."""
    from simrec.compression import CodeModel

    files = dict(learned.files)
    if hasattr(encoder, "decode"):
        files["code_model.npz"] = CodeModel.fit(learned.codes).to_bytes()
        files["prior.npz"] = _prior(encoder, learned.codes).to_bytes()
    files["history.json"] = json.dumps(_history(learned.history), indent=1).encode()
    return files


def _record(
    plan: Plan, model: _Model, learned: _Learned, files: Mapping[str, bytes], examples: Pictures
) -> EncoderRecord:
    """A trained encoder's record for the manifest."""
    from simrec import settings
    from simrec.compression import sparsity

    encoder, kept = model.encoder, learned.history.epochs[learned.history.kept - 1]
    return EncoderRecord(
        name=plan.encoder,
        provider=model.offer.provider,
        factory=model.offer.spec.factory,
        runtime="onnx" if "encoder.onnx" in files else "plugin",
        metric=model.offer.spec.metric,
        dim=encoder.dim,
        input=encoder.input,
        preset=plan.preset,
        settings=settings.to_json(model.settings),
        seed=plan.seed,
        decodes=hasattr(encoder, "decode"),
        digest=_digest(files, encoder.input),
        trained_on=TrainedOn(examples.name, len(examples), examples.digest, examples.test),
        results=Results(
            epochs=len(learned.history.epochs),
            kept=learned.history.kept,
            ended=learned.history.ended,
            loss=kept.loss,
            validation_loss=kept.validation_loss,
            zeros=sparsity(learned.codes),
            seconds=round(learned.seconds, 1),
        ),
        command=plan.command,
        folder="",
    )


def _check_replaceable(folder: Path, replace_catalogue: bool) -> None:
    if store.exists(folder) and store.current(folder).manifest.catalogue and not replace_catalogue:
        raise StoreError(
            f"{folder}: has a catalogue, which another encoder could not answer for: add --replace, or --name"
        )


def _check_device(device: str) -> None:
    """Raises RequestError for a device that torch doesn't find, if the encoder has imported torch."""
    torch = sys.modules.get("torch")
    if torch is None or device in ("auto", "cpu"):
        return
    there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if not there:
        raise RequestError(f"torch finds no {device} on this machine: leave --device out, or use --device cpu")


def _pictures(
    source: PathText, encoder: Any, plan: Plan, watch: Watch, data_dir: PathText | None
) -> tuple[Pictures, Pictures]:
    """The pictures to learn from, and those to validate on: the test split, else every tenth picture, held out."""
    spec: ImageSpec = encoder.input
    memory, why = plan.memory or _quarter(), ""
    if (most := getattr(encoder, "sample", None)) and (needed := most * math.prod(spec.shape)) < memory:
        memory, why = needed, f"{plan.encoder} needs no more"
    opened = open_source(source, data_dir=data_dir, notice=watch.notice)
    pictures = collected(
        opened, spec, notice=watch.notice, memory=memory, strict=plan.strict, progress=watch.reading
    )  # fmt: skip
    if len(pictures) < pictures.total * 0.999 and pictures.images.nbytes > 0.9 * memory:
        why = why or f"more don't fit into {memory / 1e9:.1f} GB (--memory)"
        watch.notice(f"Learning from {len(pictures):,} of the {pictures.total:,} pictures, drawn evenly: {why}.")
    if pictures.test:
        return pictures, load(pictures.test, spec, data_dir=data_dir, notice=watch.notice, memory=memory // HELD_OUT)
    if len(pictures) < HELD_OUT:
        raise DataError(f"{pictures.name}: training needs at least {HELD_OUT} pictures, not {len(pictures)}")
    rows = np.arange(len(pictures)) % HELD_OUT == HELD_OUT - 1
    return pictures.where(~rows), pictures.where(rows)


def _quarter() -> int:
    """A quarter of the machine's memory in bytes, or 2 GB if the system doesn't say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2 << 30


def _saved(model: Any, culprit: str) -> dict[str, bytes]:
    """The files that the encoder saves into an empty folder.

    Raises PluginError, which names the culprit, for files that simrec wouldn't open again: odd names, graphs that it
    doesn't run.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
    for name, data in files.items():
        if not file_name(f"encoder/00000000/{name}"):
            raise PluginError(f"{culprit} saved a file {name!r}: name it with letters, digits, '.', '_' and '-'")
        if name in ("encoder.onnx", "decoder.onnx"):
            try:
                check_graph(data)
            except ValueError as error:
                raise PluginError(f"{culprit} saved a graph {name} that simrec doesn't run: {error}") from error
    return files


def _prior(model: Any, codes: Codes) -> Mixture:
    """The distribution from which an encoder's new codes are drawn. codes (n, dim): of train pictures."""
    from simrec.generation import Mixture

    return Mixture.standard_normal(model.dim) if getattr(model, "variational", False) else Mixture.fit(codes)


def _digest(files: Mapping[str, bytes], spec: Any) -> str:
    """An encoder's digest: of what it computes (not how its training went) and how its pictures are prepared."""
    parts = [f"{name} {sha256(data).hexdigest()}" for name, data in sorted(files.items()) if name != "history.json"]
    return sha256("\n".join([*parts, json.dumps(asdict(spec), sort_keys=True)]).encode()).hexdigest()


def _history(history: History) -> dict[str, Any]:
    epochs = [{**asdict(epoch), "parts": dict(epoch.parts)} for epoch in history.epochs]
    return {"kept": history.kept, "ended": history.ended, "epochs": epochs}

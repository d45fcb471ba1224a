"""The conformance kit: small named checks of the contract in `simrec.contracts`, for authors of encoders.

In a plugin's own tests, one case per check:

    @pytest.mark.parametrize("check", encoder_checks(SPEC), ids=str)
    def test_keeps_the_contract(check):
        check()

Without a test runner, `check_encoder(SPEC)` gives the results as a list, and `simrec plugins check NAME` prints them.

The kit uses only numpy and the protocol. It fits the encoder twice, on `LEARNED` pictures, stops it each time after the
first epoch, and shares the results between the checks.
"""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal
from unittest import SkipTest

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Codes, EncoderSpec, History, Images, ImageSpec, Progress
from simrec.errors import ImageError, PluginError, RequestError, SimrecError, reason, suggestion
from simrec.faults import checked_history

if TYPE_CHECKING:
    from simrec.engine_testing import EngineCheck

LEARNED, VALIDATION, PROBE = 256, 64, 64
"""How many pictures to learn from, to validate on, and (the first of those learned from) to encode one by one."""

EPOCHS = 2
"""Epochs in the default settings of a check: `stop` ends it after the first, so there must be one more."""

SEED = 3

TOLERANCE = 1e-4
"""Maximum difference between codes from another batch or runtime, as a share of the largest number in a code, or of 1
if that is smaller: float32 sums in another order differ by less. The same goes for decoded pixels."""

DISTINCT = 0.9
"""Minimum share of different codes. The pictures, from Fashion-MNIST, are all different."""

DIRECTIONS, SHARE = 4, 1e-3
"""Codes must vary in this many directions (fewer if dim is smaller), by this share of the largest variance."""

HEAVY = ("torch", "torchvision", "tensorflow", "jax")
"""What a plugin's package must not import: every command that looks for plugins would wait for it."""

IMPORT_SECONDS = 60.0

Outcome = Literal["passed", "failed", "expected", "not applicable"]


class CheckFailed(AssertionError):  # noqa: N818 - test runners' own word
    """An encoder breaks its contract: which check, what was found, and the line of the contract."""


class NotApplicable(Exception):  # noqa: N818 - it is an answer, not a failure
    """There is nothing to check: an optional part is missing, or another check already says why."""


class _Fault(Exception):  # noqa: N818
    """What a check found wrong."""


@dataclass(frozen=True)
class Check:
    """One line of the contract and the function that checks it.

    function: takes a `Subject` and returns something to report, or "". Any exception is what it found wrong, except
    `NotApplicable`.
    """

    name: str
    contract: str
    function: Callable[[Subject], str]


@dataclass(frozen=True)
class Result:
    """How a check ended.

    outcome: "expected" is a failure listed in `expected_failures`. message: what was found, the reason for the expected
    failure, why there was nothing to check, or what a passed check reports; may be "".
    """

    name: str
    contract: str
    outcome: Outcome
    message: str


@dataclass(frozen=True)
class _Fit:
    """A fitted encoder and what happened during the fit."""

    encoder: Any
    history: Any
    reports: tuple[Any, ...]
    changed: bool


@dataclass(frozen=True)
class _Saved:
    """What `save` wrote, by file name, and what `load` returned or raised."""

    files: Mapping[str, bytes]
    loaded: Any


class Subject:
    """The encoder under check: imported, fitted, encoded with and saved once, when a check first needs it.

    Each failure belongs to one check; checks that depend on it are then not applicable.
    """

    def __init__(self, spec: EncoderSpec, settings: Any = None) -> None:
        self.spec = spec
        self._given = settings

    @property
    def kind(self) -> Any:
        """The encoder's class."""
        return _usable(self.importing, "its class cannot be imported: see protocol")

    @property
    def settings(self) -> Any:
        """The settings for the check: those given, else the default preset with `EPOCHS` epochs, if it has epochs."""
        if self._given is not None:
            return self._given
        presets = getattr(self.kind, "presets", {})
        settings = presets["default"] if "default" in presets else self.kind.Settings()
        has_epochs = is_dataclass(settings) and "epochs" in [field.name for field in fields(settings)]
        return replace(settings, epochs=EPOCHS) if has_epochs else settings

    def pictures(self, n: int = PROBE) -> Images:
        """n images (n, h, w, c) for the encoder; the caller may change them."""
        return _pictures(self.fresh.input)[:n].copy()

    @property
    def fresh(self) -> Any:
        """An encoder that hasn't learned anything."""
        return _usable(self.making, "it cannot be made: see protocol")

    @property
    def encoder(self) -> Any:
        """The fitted encoder."""
        return _usable(self.fitting, "fit failed: see fit").encoder

    @property
    def history(self) -> History:
        """What `fit` returned."""
        history = _usable(self.fitting, "fit failed: see fit").history
        try:
            return checked_history(history, "it")
        except PluginError:
            raise NotApplicable("fit returned no History as the contract has it: see fit") from None

    @property
    def codes(self) -> Codes:
        """The codes of `pictures()`, as `encode` returned them."""
        codes: Codes = _usable(self.encoding, "encode failed: see dtype_and_shape")
        return codes

    @property
    def steady_codes(self) -> Codes:
        """The same codes, if they are deterministic, so that others can be compared with them."""
        if not _same(self.codes, self.encoder.encode(self.pictures())):
            raise NotApplicable("encode gives other codes each time: see deterministic")
        return self.codes

    def fit(self) -> _Fit:
        """Fits a new encoder, and stops it after the first epoch."""
        encoder = self.kind(self.settings)
        given = self.pictures(LEARNED + VALIDATION)
        images, validation = given[:LEARNED].copy(), given[LEARNED:].copy()
        reports: list[Any] = []
        history = encoder.fit(
            images, validation=validation, seed=SEED, device="cpu", progress=reports.append, stop=lambda: True
        )
        changed = not np.array_equal(np.concatenate([images, validation]), given)
        return _Fit(encoder, history, tuple(reports), changed)

    @cached_property
    def importing(self) -> Any:
        """The class, or what importing it raised."""
        module, _, attribute = self.spec.factory.partition(":")
        return _outcome(lambda: getattr(import_module(module), attribute))

    @cached_property
    def making(self) -> Any:
        """An encoder that hasn't learned anything, or what making it raised."""
        return _outcome(lambda: self.kind(self.settings))

    @cached_property
    def fitting(self) -> Any:
        """The first fit, or what it raised."""
        return _outcome(self.fit)

    @cached_property
    def encoding(self) -> Any:
        """The codes of `pictures()`, or what `encode` raised."""
        return _outcome(lambda: self.encoder.encode(self.pictures()))

    @cached_property
    def saving(self) -> Any:
        """What `save` and `load` did, or what `save` raised."""

        def save() -> _Saved:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self.encoder.save(folder)
                files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
                return _Saved(files, _outcome(lambda: self.kind.load(folder)))

        return _outcome(save)


_REGISTERED: list[Check] = []


def _contract(line: str) -> Callable[[Callable[[Subject], str]], Callable[[Subject], str]]:
    """Registers a function as a check with the function's name."""

    def register(function: Callable[[Subject], str]) -> Callable[[Subject], str]:
        _REGISTERED.append(Check(function.__name__.strip("_"), line, function))
        return function

    return register


@_contract("The class has Settings, presets, fit, encode, save and load; an encoder keeps settings, input and dim.")
def _protocol(subject: Subject) -> str:
    kind = _or_raise(subject.importing)
    missing = [name for name in ("Settings", "presets", "fit", "encode", "save", "load") if not hasattr(kind, name)]
    _require(not missing, f"the class has no {', '.join(missing)}")
    given = {"validation": 0, "seed": 0, "device": 0, "progress": 0, "stop": 0}
    try:
        inspect.signature(kind.fit).bind(None, None, **given)
    except TypeError as error:
        raise _Fault(f"fit(images, *, {', '.join(given)}) cannot be called: {error}") from None
    encoder = _or_raise(subject.making)
    missing = [name for name in ("settings", "input", "dim") if not hasattr(encoder, name)]
    _require(not missing, f"an encoder has no {', '.join(missing)}")
    _require(encoder.settings == subject.settings, f"settings are {encoder.settings!r}, not those it was made with")
    spec, dim = encoder.input, encoder.dim
    _require(isinstance(spec, ImageSpec), f"input is {spec!r}, no ImageSpec")
    _require(isinstance(dim, int) and dim >= 1, f"dim is {dim!r}, no int of 1 or more")
    return ""


@_contract(
    'Settings is a frozen dataclass that JSON can keep; each field has a default and a doc; a preset is "default".'
)
def _settings(subject: Subject) -> str:
    from simrec.settings import from_json, to_json

    kind = subject.kind.Settings
    _require(is_dataclass(kind), f"{kind!r} is not a dataclass")
    _require(getattr(kind, "__dataclass_params__").frozen, f"{kind.__name__} is not frozen")  # noqa: B009
    for field in fields(kind):
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        _require(has_default, f"{field.name} has no default")
        _require(
            bool(field.metadata.get("doc")), f"{field.name} has no line of doc: give it with setting(default, doc)"
        )
    presets = subject.kind.presets
    _require(isinstance(presets, Mapping), f"the presets are {type(presets).__name__}, not a dict")
    _require("default" in presets, f"the presets are {', '.join(presets) or 'none'}")
    for name, preset in presets.items():
        _require(type(preset) is kind, f"preset {name!r} is {type(preset).__name__}, not {kind.__name__}")
        again = from_json(kind, json.loads(json.dumps(to_json(preset))))
        _require(again == preset, f"preset {name!r} comes back from JSON as {again!r}")
    return ""


@_contract("Importing the plugin's package doesn't import torch; the module of the class may.")
def _light_import(subject: Subject) -> str:
    _usable(subject.importing, "its class cannot be imported: see protocol")
    package = subject.spec.factory.partition(":")[0].partition(".")[0]
    entered = {entry.module for entry in entry_points(group="simrec") if entry.module.partition(".")[0] == package}
    heavy = _heavy_imports(frozenset({package} | entered), tuple(sys.path))
    _require(not heavy, f"import {package} imports {', '.join(heavy)}: import it in the module of the class")
    return ""


@_contract("fit learns from pictures alone, leaves them unchanged, and returns a History with the epoch it kept.")
def _fit(subject: Subject) -> str:
    _usable(subject.making, "it cannot be made: see protocol")
    fit = _or_raise(subject.fitting)
    history = checked_history(fit.history, "it")
    count = len(history.epochs)
    _require([e.epoch for e in history.epochs] == list(range(1, count + 1)), "the epochs are not numbered 1, 2, ...")
    losses = [loss for epoch in history.epochs for loss in (epoch.loss, epoch.validation_loss)]
    _require(all(map(math.isfinite, losses)), f"the losses are {losses}")
    _require(not fit.changed, "it changed the pictures it was given")
    return ""


@_contract("fit calls progress as steps are done, up to the last of an epoch; epochs and steps count from 1.")
def _progress(subject: Subject) -> str:
    reports = _usable(subject.fitting, "fit failed: see fit").reports
    _require(len(reports) > 0, "it was never called")
    wrong = [report for report in reports if not isinstance(report, Progress)]
    _require(not wrong, f"it was given {wrong[:1]}, no Progress")
    for at in reports:
        _require(1 <= at.epoch <= at.epochs and 1 <= at.step <= at.steps and math.isfinite(at.loss), f"it said {at}")
    places = [(at.epoch, at.step) for at in reports]
    _require(places == sorted(set(places)), f"epochs and steps came as {places[:9]}")
    _require(reports[-1].step == reports[-1].steps, f"the last it said is {reports[-1]}")
    return ""


@_contract('fit calls stop after each epoch; if it returns True, fit ends with a History that says "interrupted".')
def _stop(subject: Subject) -> str:
    history = subject.history
    reports = _usable(subject.fitting, "fit failed: see fit").reports
    planned = max((getattr(at, "epochs", 1) for at in reports), default=1)
    trained = len(history.epochs)
    _require(trained <= 1, f"stopped after the first epoch, it trained {trained}")
    if planned == 1 and history.ended == "finished":
        raise NotApplicable("it has one epoch only, which it finished")
    _require(history.ended == "interrupted", f"stopped after 1 epoch of {planned}, its History says {history.ended!r}")
    return ""


@_contract("encode gives float32 codes (n, dim).")
def _dtype_and_shape(subject: Subject) -> str:
    encoder, codes = subject.encoder, _or_raise(subject.encoding)
    plain = isinstance(codes, np.ndarray) and not isinstance(codes, np.ma.MaskedArray)
    _require(plain, f"it gives a {type(codes).__name__}, not a plain numpy array")
    _require(codes.dtype == np.float32, f"codes are {codes.dtype}")
    _require(codes.shape == (PROBE, encoder.dim), f"codes of {PROBE} pictures are {codes.shape}, dim is {encoder.dim}")
    return ""


@_contract("Codes are finite numbers.")
def _finite(subject: Subject) -> str:
    codes = subject.codes
    rows = int((~_finite_rows(codes)).sum())
    _require(rows == 0, f"the codes of {rows} of {len(codes)} pictures are not finite")
    return ""


@_contract("The same pictures have the same codes each time: encode is not random.")
def _deterministic(subject: Subject) -> str:
    again = subject.encoder.encode(subject.pictures())
    _require(_same(subject.codes, again), f"codes differ by {_difference(subject.codes, again):.2g} the second time")
    return ""


@_contract("A picture's code does not depend on the pictures encoded with it.")
def _batch_independent(subject: Subject) -> str:
    together, images = subject.steady_codes, subject.pictures()
    alone = np.stack([np.reshape(subject.encoder.encode(images[i : i + 1].copy()), -1) for i in range(PROBE)])
    backwards = subject.encoder.encode(images[::-1].copy())[::-1]
    for how, codes in (("encoded alone", alone), ("in another order", backwards)):
        _require(_near(codes, together), f"codes differ by {_difference(codes, together):.2g} {how}")
    return ""


@_contract("No pictures give no codes: (0, dim).")
def _no_pictures(subject: Subject) -> str:
    expected = (0, *np.shape(subject.codes)[1:])
    codes = subject.encoder.encode(subject.pictures(0))
    _require(np.shape(codes) == expected, f"codes of 0 pictures are {np.shape(codes)}")
    return ""


@_contract("One picture gives one code: (1, dim).")
def _one_picture(subject: Subject) -> str:
    expected = (1, *np.shape(subject.codes)[1:])
    codes = subject.encoder.encode(subject.pictures(1))
    _require(np.shape(codes) == expected, f"codes of 1 picture are {np.shape(codes)}")
    return ""


@_contract("encode leaves the pictures unchanged.")
def _input_unchanged(subject: Subject) -> str:
    given = subject.pictures()
    subject.encoder.encode(given)
    changed = int((given != subject.pictures()).any(axis=(1, 2, 3)).sum())
    _require(changed == 0, f"it changed {changed} of {PROBE} pictures")
    return ""


@_contract("encode refuses pictures of another size, number of channels or dtype with a one-line ImageError.")
def _others_refused(subject: Subject) -> str:
    encoder = subject.encoder
    others: list[Any] = [*_misshapen(encoder.input), subject.pictures(2) / np.float32(255)]
    for images in others:
        _refused(partial(encoder.encode, images), ImageError, f"{images.dtype} {images.shape}")
    return ""


@_contract("fit refuses pictures of another shape, and decode codes of another length, with one-line simrec.errors.")
def _errors(subject: Subject) -> str:
    encoder = subject.encoder
    for images in _misshapen(encoder.input):
        fit = partial(
            subject.kind(subject.settings).fit, images, validation=images, seed=SEED, device="cpu",
            progress=lambda _: None, stop=lambda: True,
        )  # fmt: skip
        _refused(fit, SimrecError, f"fit: {images.dtype} {images.shape}")
    if hasattr(encoder, "decode"):
        for length in {encoder.dim + 1, max(1, encoder.dim - 1)} - {encoder.dim}:
            codes = np.zeros((2, length), np.float32)
            _refused(partial(encoder.decode, codes), SimrecError, f"decode: {codes.shape}")
    return ""


@_contract("The same seed, pictures and settings give the same codes.")
def _same_seed(subject: Subject) -> str:
    codes = subject.steady_codes
    again = subject.fit().encoder.encode(subject.pictures())
    _require(_same(codes, again), f"fitted again with seed {SEED}, codes differ by {_difference(codes, again):.2g}")
    return ""


@_contract("load gives the encoder that save wrote: equal settings, input, dim and codes.")
def _save_load(subject: Subject) -> str:
    encoder = subject.encoder
    loaded = _or_raise(_or_raise(subject.saving).loaded)
    for name in ("settings", "input", "dim"):
        before, after = getattr(encoder, name), getattr(loaded, name)
        _require(before == after, f"{name}: {after!r} was loaded, {before!r} saved")
    codes, again = subject.steady_codes, loaded.encode(subject.pictures())
    _require(_same(codes, again), f"codes differ by {_difference(codes, again):.2g} once loaded")
    return ""


@_contract("If save writes encoder.onnx (and decoder.onnx), ONNX Runtime gives the same codes (and pictures).")
def _onnx(subject: Subject) -> str:
    from simrec.onnx_encoder import OnnxEncoder

    files = _usable(subject.saving, "save failed: see save_load").files
    if "encoder.onnx" not in files:
        raise NotApplicable("save writes no encoder.onnx: looking up will need the plugin")
    encoder, codes, images = subject.encoder, subject.steady_codes, subject.pictures()
    decodes = hasattr(encoder, "decode")
    _require(not decodes or "decoder.onnx" in files, "it has decode and encoder.onnx, but no decoder.onnx")
    graph = OnnxEncoder(encoder.input, encoder.dim, files.__getitem__)
    pairs: list[tuple[str, Any, Any]] = [("codes", graph.encode(images), codes)]
    empty = graph.encode(images[:0]).shape
    _require(empty == (0, encoder.dim), f"codes of 0 pictures are {empty}")
    variational = bool(getattr(encoder, "variational", False))
    _require(graph.variational == variational, f"variational is {variational}, of the graph {graph.variational}")
    if variational:
        pairs.append(("log-variances", graph.log_variances(images), encoder.log_variances(images)))
    if decodes:
        pairs.append(("pictures", graph.decode(codes), encoder.decode(codes)))
    for what, ours, theirs in pairs:
        _require(_near(ours, theirs), f"{what} differ by {_difference(ours, theirs):.2g}")
    return ""


@_contract("Codes have not collapsed: different pictures have different codes, which vary in several directions.")
def _not_collapsed(subject: Subject) -> str:
    _usable(subject.encoding, "encode failed: see dtype_and_shape")
    codes = np.asarray(subject.encoder.encode(subject.pictures(LEARNED)), np.float32)
    codes = codes[_finite_rows(codes)]
    if len(codes) < LEARNED / 2:
        raise NotApplicable("most codes are not finite: see finite")
    different = len(np.unique(codes, axis=0))
    _require(different >= DISTINCT * len(codes), f"{len(codes)} pictures have {different} different codes")
    variances = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False) ** 2
    wide, least = int((variances > SHARE * variances[0]).sum()), min(DIRECTIONS, codes.shape[1])
    _require(wide >= least, f"codes vary in fewer than {least} directions: {wide}")
    return ""


@_contract("decode, if there is one, gives float32 pictures (n, h, w, c) between 0 and 1, and none for no codes.")
def _decoded(subject: Subject) -> str:
    encoder, codes = subject.encoder, subject.codes
    if not hasattr(encoder, "decode"):
        raise NotApplicable("it has no decode")
    if np.shape(codes)[1:] != (encoder.dim,):
        raise NotApplicable("codes are not (n, dim): see dtype_and_shape")
    codes = np.asarray(codes, np.float32)[_finite_rows(codes)]
    if not len(codes):
        raise NotApplicable("no code is finite: see finite")
    for some in (codes, codes[:0]):
        rebuilt = encoder.decode(some)
        expected = (len(some), *encoder.input.shape)
        _require(np.shape(rebuilt) == expected, f"pictures of {len(some)} codes are {np.shape(rebuilt)}")
        _require(rebuilt.dtype == np.float32, f"pictures are {rebuilt.dtype}")
        if len(some):
            low, high = float(rebuilt.min()), float(rebuilt.max())
            _require(low >= 0 and high <= 1, f"pictures lie between {low:.3g} and {high:.3g}")
    return ""


@_contract("log_variances, if codes are means (`variational`), gives finite float32 numbers (n, dim).")
def _variances(subject: Subject) -> str:
    encoder = subject.encoder
    if not getattr(encoder, "variational", False):
        raise NotApplicable("its codes are not means of distributions")
    variances, codes = encoder.log_variances(subject.pictures()), subject.codes
    _require(isinstance(variances, np.ndarray), f"it gives a {type(variances).__name__}, not a numpy array")
    _require(variances.dtype == np.float32, f"log-variances are {variances.dtype}")
    _require(variances.shape == np.shape(codes), f"log-variances are {variances.shape}, codes {np.shape(codes)}")
    _require(bool(np.isfinite(variances).all()), "log-variances are not all finite")
    return ""


@_contract("Reports how many images a second encode takes; no number is wrong.")
def _speed(subject: Subject) -> str:
    _usable(subject.encoding, "encode failed: see dtype_and_shape")
    images = subject.pictures(LEARNED)
    begun = time.perf_counter()
    subject.encoder.encode(images)
    return f"{LEARNED / max(1e-9, time.perf_counter() - begun):,.0f} images a second, {LEARNED} at once"


CHECKS: tuple[Check, ...] = tuple(_REGISTERED)
"""All checks, in the order in which they run."""


@dataclass(frozen=True)
class Case:
    """A check of one encoder for a test runner to call; `str` gives the check's name."""

    check: Check
    subject: Subject
    expected: str | None = None

    def __str__(self) -> str:
        return self.check.name

    def __call__(self) -> None:
        """Returns if the encoder passes, or if there is nothing to check.

        Raises CheckFailed if it fails; if that was expected, unittest.SkipTest, which pytest reports with its reason.
        """
        result = self.run()
        if result.outcome == "failed":
            raise CheckFailed(f"{result.name}: {result.message} (the contract: {result.contract})")
        if result.outcome == "expected":
            raise SkipTest(f"{result.name} is expected to fail: {result.message}")

    def run(self) -> Result:
        """The result; any exception from the encoder, even SystemExit, fails the check."""
        outcome: Outcome = "passed"
        try:
            message = self.check.function(self.subject)
        except NotApplicable as why:
            outcome, message = "not applicable", str(why)
        except _Fault as fault:
            outcome, message = "failed", shorten(str(fault), 300)
        except (Exception, SystemExit) as error:
            outcome, message = "failed", reason(error)
        if self.expected and outcome == "failed":
            outcome, message = "expected", f"{self.expected} ({message})"
        elif self.expected and outcome == "passed":
            outcome, message = "failed", "it no longer fails: take it out of expected_failures"
        return Result(self.check.name, self.check.contract, outcome, message)


def encoder_checks(
    spec: EncoderSpec, *, settings: Any = None, expected_failures: Mapping[str, str] | None = None
) -> list[Case]:
    """One case per check, for `pytest.mark.parametrize`; nothing is imported or fitted before the first is called.

    settings: for the check, by default the default preset with two epochs; one epoch is trained in any case.
    expected_failures: a reason for each check that is known to fail; if it passes, that is a failure. Raises
    RequestError for an unknown check and for an empty reason.
    """
    expected = dict(expected_failures or {})
    names = [check.name for check in CHECKS]
    for name, why in expected.items():
        if name not in names:
            raise RequestError(f"expected_failures: no check {name!r}: {suggestion(name, names)}")
        if not why.strip():
            raise RequestError(f"expected_failures: say why {name!r} is expected to fail")
    subject = Subject(spec, settings)
    return [Case(check, subject, expected.get(check.name)) for check in CHECKS]


def engine_checks() -> list[EngineCheck]:
    """The checks of an engine's contract: see `simrec.engine_testing`."""
    from simrec.engine_testing import engine_checks as checks

    return checks()


def check_encoder(
    spec: EncoderSpec, *, settings: Any = None, expected_failures: Mapping[str, str] | None = None
) -> list[Result]:
    """Runs every check, even if others fail; takes and raises what `encoder_checks` does."""
    return [case.run() for case in encoder_checks(spec, settings=settings, expected_failures=expected_failures)]


@cache
def _pictures(spec: ImageSpec) -> Images:
    """Embedded Fashion-MNIST pictures (n, h, w, c), prepared by the spec's recipe."""
    from PIL import Image

    from simrec.images import prepare
    from simrec.sources.load import load

    plain = load("fashion-mnist:test", ImageSpec(), notice=lambda _: None).images[: LEARNED + VALIDATION]
    return np.stack([prepare(Image.fromarray(picture[:, :, 0]), spec) for picture in plain])


def _misshapen(spec: ImageSpec) -> list[Images]:
    """Pictures of another size, of another number of channels, and one without the leading n."""
    size, channels = spec.size, spec.channels
    shapes = [(2, size + 4, size + 4, channels), (2, size, size, 4 - channels), (size, size, channels)]
    return [np.zeros(shape, np.uint8) for shape in shapes]


@cache
def _heavy_imports(modules: frozenset[str], path: tuple[str, ...]) -> tuple[str, ...]:
    """Which of HEAVY a fresh interpreter has imported after importing those modules."""
    code = (
        f"import sys; sys.path[:] = {list(path)!r}; import {', '.join(sorted(modules))}; "
        f"print('found', *({set(HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=IMPORT_SECONDS
    )
    if done.returncode:
        raise _Fault(
            f"alone, {', '.join(sorted(modules))} cannot be imported: {(done.stderr.splitlines() or ['?'])[-1]}"
        )
    return tuple(sorted(done.stdout.splitlines()[-1].split()[1:]))


def _refused(call: Callable[[], Any], kind: type[Exception], what: str) -> None:
    try:
        call()
    except kind as error:
        _require("\n" not in str(error) and bool(str(error)), f"{what}: the message has not one line: {str(error)!r}")
    except Exception as error:
        raise _Fault(f"{what}: {reason(error)}, no {kind.__name__}") from error
    else:
        raise _Fault(f"{what}: it was taken, not refused with {kind.__name__}")


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise _Fault(fault)


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:
        return error


def _or_raise(outcome: Any) -> Any:
    """The outcome of a step, unless it failed: then the check that took the step fails with its error."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _usable(outcome: Any, why: str) -> Any:
    """The outcome of a step, unless it failed: then a check that needs it doesn't apply."""
    if isinstance(outcome, BaseException):
        raise NotApplicable(why)
    return outcome


def _finite_rows(codes: Any) -> NDArray[np.bool_]:
    finite: NDArray[np.bool_] = np.isfinite(codes).reshape(len(codes), -1).all(axis=1)
    return finite


def _same(ours: Any, theirs: Any) -> bool:
    return np.array_equal(ours, theirs, equal_nan=True)


def _near(ours: Any, theirs: Any) -> bool:
    if np.shape(ours) != np.shape(theirs):
        return False
    scale = max(1.0, float(np.nanmax(np.abs(theirs), initial=0)))
    return np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _difference(ours: Any, theirs: Any) -> float:
    """The largest difference; NaN if shapes differ."""
    if np.shape(ours) != np.shape(theirs):
        return math.nan
    return float(np.nanmax(np.abs(np.asarray(ours) - np.asarray(theirs)), initial=0))

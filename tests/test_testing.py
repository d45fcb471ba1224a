"""The conformance kit: a good encoder passes; one that breaks a line of the contract fails that check alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from simrec import testing
from simrec.contracts import Codes, EncoderSpec, Epoch, History, Images, ImageSpec, Progress, Rebuilt, setting
from simrec.errors import DataError, ImageError, RequestError
from simrec.testing import CHECKS, CheckFailed, Outcome, check_encoder, encoder_checks

NAMES = [check.name for check in CHECKS]


@dataclass(frozen=True)
class Settings:
    dim: int = setting(8, "numbers in a code")
    epochs: int = setting(5, "passes over the pictures, at most")
    size: int = setting(12, "height and width of a picture, in pixels")


class Good:
    """A random projection of the pixels, with a decoder that gives the mean picture."""

    Settings: ClassVar[Any] = Settings
    presets: ClassVar[Any] = {"default": Settings()}

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.input = ImageSpec(settings.size, 3, "photo")
        self.dim = settings.dim
        self.weights = np.zeros((np.prod(self.input.shape), self.dim), np.float32)
        self.mean = np.zeros(self.input.shape, np.float32)

    def fit(
        self, images: Images, *, validation: Images, seed: int, device: str,
        progress: Callable[[Progress], None], stop: Callable[[], bool],
    ) -> History:  # fmt: skip
        self.check(images)
        self.weights = self.drawn(seed).standard_normal(self.weights.shape).astype(np.float32) / 20
        self.mean = (images / 255).mean(axis=0).astype(np.float32)
        epochs = []
        for epoch in range(1, self.settings.epochs + 1):
            progress(Progress(epoch, self.settings.epochs, 1, 1, 0.5, None))
            epochs.append(Epoch(epoch, 0.5, 0.5, {}, 0.0))
            if stop():
                return History(tuple(epochs), epoch, "interrupted")
        return History(tuple(epochs), epoch, "finished")

    def drawn(self, seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)

    def check(self, images: Images) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.input.shape:
            raise ImageError(f"images are {images.dtype} {images.shape}: prepare them")

    def encode(self, images: Images) -> Codes:
        self.check(images)
        return (images.reshape(len(images), len(self.weights)) / np.float32(255)) @ self.weights

    def decode(self, codes: Codes) -> Rebuilt:
        if codes.shape[1:] != (self.dim,):
            raise DataError(f"codes are {codes.shape}: use the encoder they came from")
        return np.repeat(self.mean[np.newaxis], len(codes), axis=0)

    def save(self, folder: Path) -> None:
        np.savez(folder / "it.npz", weights=self.weights, mean=self.mean, settings=list(vars(self.settings).values()))

    @classmethod
    def load(cls, folder: Path) -> Good:
        with np.load(folder / "it.npz") as kept:
            made = cls(cls.Settings(*kept["settings"].tolist()))
            made.weights, made.mean = kept["weights"], kept["mean"]
        return made


class WithGraphs(Good):
    """Writes the graphs too; without a decoder, so one of them."""

    decode = property()  # type: ignore[assignment]  # as if there were none

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_graph(folder / "encoder.onnx", self.weights, self.input)


def write_graph(path: Path, weights: Any, spec: ImageSpec) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("Div", ["flat", "white"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["codes"]),
    ]
    constants = {"weights": weights, "white": np.float32(255)}
    graph = helper.make_graph(
        nodes, "encoder",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *spec.shape])],
        [helper.make_tensor_value_info("codes", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


class Variational(Good):
    variational = True

    def log_variances(self, images: Images) -> Codes:
        return np.zeros((len(images), self.dim), np.float32)


class OneEpoch(Good):
    """Finishes after one epoch, whatever `stop` says."""

    def fit(self, images: Images, **more: Any) -> History:
        quiet = more | {"progress": lambda _: None, "stop": lambda: True}
        epochs = super().fit(images, **quiet).epochs
        more["progress"](Progress(1, 1, 1, 1, 0.5, None))
        return History(epochs, 1, "finished")


class DimOfNumpy(Good):
    """A recommender's manifest is JSON, which knows no numpy types."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.dim = np.int64(settings.dim)  # type: ignore[assignment]


class ListedPresets(Good):
    presets: ClassVar[Any] = [Settings()]


class UndocumentedSetting(Good):
    Settings = make_dataclass("Plain", [(f.name, int, f.default) for f in fields(Settings)], frozen=True)
    presets: ClassVar[Any] = {"default": Settings()}


class KeepsNoEpoch(Good):
    def fit(self, images: Images, **more: Any) -> History:
        return History(super().fit(images, **more).epochs, 0, "interrupted")


class EndsInItsOwnWords(Good):
    def fit(self, images: Images, **more: Any) -> History:
        return replace(super().fit(images, **more), ended="done")  # type: ignore[arg-type]


class LossesOfTexts(Good):
    def fit(self, images: Images, **more: Any) -> History:
        history = super().fit(images, **more)
        return replace(history, epochs=(replace(history.epochs[0], loss="low"),))  # type: ignore[arg-type]


class FitChangesPictures(Good):
    def fit(self, images: Images, **more: Any) -> History:
        history = super().fit(images, **more)
        images[:] = 0
        return history


class FitExits(Good):
    def fit(self, images: Images, **more: Any) -> History:
        sys.exit(3)


class Silent(Good):
    def fit(self, images: Images, **more: Any) -> History:
        return super().fit(images, **(more | {"progress": lambda _: None}))


class Unstoppable(Good):
    def fit(self, images: Images, **more: Any) -> History:
        return super().fit(images, **(more | {"stop": lambda: False}))


class Float64(Good):
    def encode(self, images: Images) -> Codes:
        return super().encode(images).astype(np.float64)  # type: ignore[return-value]


class Masked(Good):
    def encode(self, images: Images) -> Codes:
        return np.ma.masked_array(super().encode(images))


class OtherDim(Good):
    def encode(self, images: Images) -> Codes:
        return super().encode(images)[:, 1:]


class NotANumber(Good):
    def encode(self, images: Images) -> Codes:
        codes = super().encode(images)
        codes[images.sum(axis=(1, 2, 3)) % 7 == 0] = np.nan
        return codes


class Sampled(Good):
    """Its code is a sample, as in some libraries of variational autoencoders."""

    def encode(self, images: Images) -> Codes:
        return super().encode(images) + np.random.default_rng().standard_normal((len(images), 8)).astype(np.float32)


class BatchNormed(Good):
    def encode(self, images: Images) -> Codes:
        codes = super().encode(images)
        return codes - codes.mean(axis=0) if len(codes) > 2 else codes


class NeedsPictures(Good):
    def encode(self, images: Images) -> Codes:
        images[:1].reshape(1, -1).max()
        return super().encode(images)


class Squeezed(Good):
    def encode(self, images: Images) -> Codes:
        codes = super().encode(images)
        return codes[0] if len(codes) == 1 else codes


class ChangesPictures(Good):
    def encode(self, images: Images) -> Codes:
        codes = super().encode(images)
        images[images < 9] = 0
        images[:, 0] = 7
        return codes


class TakesAnyDtype(Good):
    def encode(self, images: Images) -> Codes:
        return super().encode(images.astype(np.uint8))


class RefusesWithAssertion(Good):
    def encode(self, images: Images) -> Codes:
        assert images.shape[1:] == self.input.shape
        return super().encode(images)


class TakesAnyCodes(Good):
    def decode(self, codes: Codes) -> Rebuilt:
        return super().decode(np.zeros((len(codes), self.dim), np.float32))


class Unseeded(Good):
    def drawn(self, seed: int) -> np.random.Generator:
        return np.random.default_rng()


class ForgetsWeights(Good):
    @classmethod
    def load(cls, folder: Path) -> Good:
        made = super().load(folder)
        made.weights = made.weights * 2
        return made


class ForgetsToLoadSettings(Good):
    @classmethod
    def load(cls, folder: Path) -> Good:
        made = super().load(folder)
        made.settings = cls.presets["default"]
        return made


class OtherGraph(WithGraphs):
    def save(self, folder: Path) -> None:
        super().save(folder)
        write_graph(folder / "encoder.onnx", self.weights + np.float32(0.01), self.input)


class HalfTheGraphs(Good):
    def save(self, folder: Path) -> None:
        super().save(folder)
        write_graph(folder / "encoder.onnx", self.weights, self.input)


class Collapsed(Good):
    def encode(self, images: Images) -> Codes:
        return np.ones_like(super().encode(images))


class OneDirection(Good):
    def encode(self, images: Images) -> Codes:
        return super().encode(images)[:, :1] * np.arange(1, 9, dtype=np.float32)


class Linear(Good):
    """A decoder with unbounded output."""

    def decode(self, codes: Codes) -> Rebuilt:
        return super().decode(codes) * 3 - 1


class NoVariances(Variational):
    def log_variances(self, images: Images) -> Codes:
        return np.full((len(images), self.dim), -np.inf, np.float32)


def spec(kind: type) -> EncoderSpec:
    return EncoderSpec(kind.__name__.lower(), "An encoder of the tests.", f"{kind.__module__}:{kind.__name__}")


def by_outcome(kind: type, outcome: Outcome, **more: Any) -> dict[str, str]:
    return {result.name: result.message for result in check_encoder(spec(kind), **more) if result.outcome == outcome}


@pytest.mark.parametrize("kind", [Good, WithGraphs, Variational, OneEpoch])
def test_a_good_encoder_without_torch_passes_every_check(kind: type) -> None:
    assert by_outcome(kind, "failed") == {}


def test_checks_of_what_an_encoder_does_not_have_are_not_applicable() -> None:
    assert set(by_outcome(Good, "not applicable")) == {"onnx", "variances"}
    assert set(by_outcome(WithGraphs, "not applicable")) == {"decoded", "variances"}
    assert "variances" in by_outcome(Variational, "passed")


BREAKS = [
    (DimOfNumpy, "protocol", "dim is np.int64(8), no int"),
    (ListedPresets, "settings", "the presets are list, not a dict"),
    (UndocumentedSetting, "settings", "dim has no line of doc"),
    (KeepsNoEpoch, "fit", "kept epoch 0 of 1"),
    (EndsInItsOwnWords, "fit", "ended is 'done', not finished or converged or interrupted"),
    (LossesOfTexts, "fit", "loss is str, not a number"),
    (FitChangesPictures, "fit", "changed the pictures"),
    (FitExits, "fit", "sys.exit(3)"),
    (Silent, "progress", "never called"),
    (Unstoppable, "stop", "it trained 2"),
    (Float64, "dtype_and_shape", "float64"),
    (OtherDim, "dtype_and_shape", "(64, 7), dim is 8"),
    (NotANumber, "finite", "not finite"),
    (Sampled, "deterministic", "the second time"),
    (BatchNormed, "batch_independent", "encoded alone"),
    (NeedsPictures, "no_pictures", "ValueError"),
    (Squeezed, "one_picture", "(8,)"),
    (ChangesPictures, "input_unchanged", "changed 64 of 64 pictures"),
    (TakesAnyDtype, "others_refused", "float32 (2, 12, 12, 3): it was taken"),
    (RefusesWithAssertion, "others_refused", "AssertionError"),
    (TakesAnyCodes, "errors", "decode: (2, 9): it was taken"),
    (Unseeded, "same_seed", "fitted again with seed 3"),
    (ForgetsWeights, "save_load", "once loaded"),
    (ForgetsToLoadSettings, "save_load", "epochs=5"),
    (OtherGraph, "onnx", "codes differ by"),
    (HalfTheGraphs, "onnx", "no decoder.onnx"),
    (Collapsed, "not_collapsed", "256 pictures have 1 different codes"),
    (OneDirection, "not_collapsed", "fewer than 4 directions: 1"),
    (Linear, "decoded", "pictures lie between -"),
    (NoVariances, "variances", "not all finite"),
]


@pytest.mark.parametrize(("kind", "check", "found"), BREAKS, ids=[kind.__name__ for kind, _, _ in BREAKS])
def test_an_encoder_that_breaks_one_line_fails_that_check_alone(kind: type, check: str, found: str) -> None:
    failed = by_outcome(kind, "failed")
    assert set(failed) == {check}
    assert found in failed[check]
    assert "\n" not in failed[check]


def test_masked_codes_are_no_plain_array() -> None:
    assert by_outcome(Masked, "failed")["dtype_and_shape"] == "it gives a MaskedArray, not a plain numpy array"


def test_every_check_that_can_fail_has_an_encoder_that_breaks_it() -> None:
    assert {check for _, check, _ in BREAKS} == {*NAMES} - {"light_import", "speed"}


def test_a_package_that_imports_torch_fails_that_check_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eager_plugin.py").write_text("import torch\nfrom test_testing import Good\n")
    monkeypatch.syspath_prepend(tmp_path)
    results = check_encoder(EncoderSpec("eager", "An encoder of the tests.", "eager_plugin:Good"))
    assert {r.name: r.message for r in results if r.outcome == "failed"} == {
        "light_import": "import eager_plugin imports torch: import it in the module of the class"
    }


def test_images_per_second_are_reported_and_no_failure() -> None:
    assert "images a second" in by_outcome(Good, "passed")["speed"]
    assert "speed" not in by_outcome(FitExits, "failed")


def test_a_class_that_cannot_be_imported_is_one_failure() -> None:
    results = check_encoder(EncoderSpec("gone", "An encoder of the tests.", "no_such_package.model:Gone"))
    assert [r.name for r in results if r.outcome == "failed"] == ["protocol"]
    assert "No module named 'no_such_package'" in results[0].message


def test_settings_choose_what_is_checked() -> None:
    assert by_outcome(Good, "failed", settings=Settings(dim=2, size=20)) == {}


def test_a_failure_is_one_line_with_check_finding_and_contract() -> None:
    (case,) = [case for case in encoder_checks(spec(Float64)) if str(case) == "dtype_and_shape"]
    with pytest.raises(CheckFailed) as failure:
        case()
    assert str(failure.value) == (
        "dtype_and_shape: codes are float64 (the contract: encode gives float32 codes (n, dim).)"
    )


def test_an_expected_failure_is_skipped_with_its_reason_and_harms_no_other_check() -> None:
    expected = {"dtype_and_shape": "the paper wants doubles"}
    cases = {str(case): case for case in encoder_checks(spec(Float64), expected_failures=expected)}
    with pytest.raises(SkipTest, match=r"the paper wants doubles \(codes are float64\)"):
        cases["dtype_and_shape"]()
    cases["finite"]()
    assert set(by_outcome(Float64, "expected", expected_failures=expected)) == set(expected)


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    failed = by_outcome(Good, "failed", expected_failures={"finite": "not yet"})
    assert failed == {"finite": "it no longer fails: take it out of expected_failures"}


@pytest.mark.parametrize(
    ("expected", "said"),
    [({"finit": "typo"}, "no check 'finit': did you mean 'finite'"), ({"finite": " "}, "say why 'finite'")],
)
def test_expected_failures_need_a_check_that_exists_and_a_reason(expected: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        encoder_checks(spec(Good), expected_failures=expected)


def test_a_contract_is_one_line_and_a_name_is_used_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for check in CHECKS:
        assert check.contract.endswith(".")
        assert "\n" not in check.contract


def test_the_kit_imports_no_torch_and_no_test_runner() -> None:
    code = f"import sys, {testing.__name__}; sys.exit(bool({{'torch', 'pytest', 'PIL'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

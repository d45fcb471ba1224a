"""Training: early stopping, interruption, failures, and the commands around it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import ran
from simrec_denoising.model import Denoising
from simrec_plain.model import Plain, PlainSettings
from torch import Tensor, nn

from simrec import host, store
from simrec.cli import cli
from simrec.contracts import EncoderSpec, History, Progress
from simrec.errors import TrainingError
from simrec.learning import onnx_export, training
from simrec.learning.autoencoder import Autoencoder, AutoencoderSettings
from simrec.onnx_encoder import OnnxEncoder
from simrec.sources.files import Folder
from simrec.sources.load import Pictures

TINY = PlainSettings(widths=(4,), hidden=8, decoder=(8,), dim=4, epochs=6, batch_size=64)


def trained(settings: PlainSettings, pictures: Pictures, count: int = 128, **more: Any) -> History:
    """Runs the loop alone, without the export."""
    torch.manual_seed(0)
    silent: dict[str, Any] = {"progress": lambda _: None, "stop": lambda: False}
    return training.run(
        Plain(settings), pictures.images[:count], pictures.images[count : count + 100],
        seed=0, device=torch.device("cpu"), **(silent | more),
    )  # fmt: skip


def test_early_stopping_keeps_the_epoch_with_the_lowest_validation_loss(pictures: Pictures) -> None:
    # A learning rate this large makes the validation loss jump about.
    history = trained(replace(TINY, epochs=60, patience=3, learning_rate=0.2, schedule="constant"), pictures)
    losses = [epoch.validation_loss for epoch in history.epochs]
    assert history.ended == "converged"
    assert history.kept == int(np.argmin(losses)) + 1
    assert len(losses) == history.kept + 3


def test_without_patience_every_epoch_is_trained_and_the_last_one_kept(pictures: Pictures) -> None:
    history = trained(TINY, pictures)
    assert (history.ended, len(history.epochs), history.kept) == ("finished", 6, 6)


def test_training_lowers_the_loss(pictures: Pictures) -> None:
    history = trained(TINY, pictures, 512)
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss
    assert history.epochs[-1].validation_loss < history.epochs[0].validation_loss


def test_stop_ends_after_the_epoch_with_the_best_so_far(pictures: Pictures) -> None:
    seen: list[Progress] = []
    history = trained(TINY, pictures, progress=seen.append, stop=lambda: seen[-1].epoch == 2)
    losses = [epoch.loss for epoch in history.epochs]
    assert (history.ended, len(losses)) == ("interrupted", 2)
    assert history.kept == int(np.argmin(losses)) + 1


def test_a_batch_in_pieces_trains_as_a_whole_one_does(pictures: Pictures) -> None:
    losses = []
    for pieces in (None, 24):  # of a batch of 64 two, and a rest of 16
        torch.manual_seed(0)
        encoder = Denoising(replace(Denoising.presets["article"], epochs=1, batch_size=64))
        encoder.micro_batch = pieces
        history = training.run(
            encoder, pictures.images[:640], pictures.images[640:700],
            seed=1, device=torch.device("cpu"), progress=lambda _: None, stop=lambda: False,
        )  # fmt: skip
        losses.append([(epoch.loss, epoch.validation_loss) for epoch in history.epochs])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)  # float32 sums in another order


def test_a_small_folder_still_gets_many_steps(pictures: Pictures) -> None:
    seen: list[Progress] = []
    trained(replace(TINY, epochs=1, batch_size=512), pictures, 800, progress=seen.append)
    assert len(seen) == 25  # batches of 33 and fewer, not two of 400


def test_a_loss_that_isnt_a_number_ends_the_training_with_one_line(pictures: Pictures) -> None:
    with pytest.raises(TrainingError, match="no longer finite in epoch 1"):
        trained(replace(TINY, learning_rate=1e30, schedule="constant"), pictures)


def test_one_picture_is_too_few(pictures: Pictures) -> None:
    with pytest.raises(TrainingError, match="needs at least"):
        trained(TINY, pictures, 1)


class Lying(Autoencoder):
    """A network that computes something else under export, so that its graph differs from it."""

    Settings = AutoencoderSettings
    presets = {"default": AutoencoderSettings()}

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__(settings)
        self.layer = nn.Linear(784, settings.dim)

    def code(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out + 0.001 if torch.compiler.is_compiling() else out

    def loss(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        raise AssertionError("trained before the export was checked")


def test_a_graph_that_disagrees_fails_before_the_first_epoch(pictures: Pictures) -> None:
    with pytest.raises(TrainingError, match=r"encoder.onnx.* differ by"):
        Lying(AutoencoderSettings()).fit(pictures.images[:128], validation=pictures.images[:64], device="cpu")


class Trained(Lying):
    """An encoder that a command can train, whose `code` each subclass changes."""

    def code(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out

    def loss(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        return self.code(x).square().mean(), {}


class Random(Trained):
    def code(self, x: Tensor) -> Tensor:
        return super().code(x) + torch.randn(self.dim)


class NotFinite(Trained):
    def code(self, x: Tensor) -> Tensor:
        return super().code(x) * float("nan")


class Branching(Trained):
    def code(self, x: Tensor) -> Tensor:
        return super().code(x) if x.mean() > 0.3 else -super().code(x)


class Unrunnable(Trained):
    """Draws at random what its codes don't depend on: torch.onnx exports that as a graph that simrec doesn't run."""

    def code(self, x: Tensor) -> Tensor:
        return super().code(x) + 0 * torch.rand(self.dim)


class Double(Trained):
    def code(self, x: Tensor) -> Tensor:
        return super().code(x).double() / 3


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offers the encoders of this file as a plugin's."""
    real = host.discover()
    kinds = (Random, NotFinite, Branching, Unrunnable, Double, Flat)
    specs = [EncoderSpec(kind.__name__.lower(), "", f"{__name__}:{kind.__name__}") for kind in kinds]
    more = [host.Offer(spec, "mine 1.0") for spec in specs]
    monkeypatch.setattr(host, "_discover", lambda *_: replace(real, offers=(*real.offers, *more)))


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", "code() gives the same pictures other codes the second time"),
        ("notfinite", "code() gives NaN or infinite numbers"),
    ],
)
def test_a_code_that_no_training_could_use_is_refused_before_the_first_epoch_by_the_encoders_name(
    name: str, expected: str, photos: Path, own_home: Path
) -> None:
    status, _, err = ran("train", name, "--data", photos, "--epochs", 1)
    assert (status, "epoch 1/1" in err) == (1, False)
    assert f"Error: encoder '{name}' (mine 1.0): {expected}" in err.splitlines()[-1]
    assert not (own_home / name).exists()


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("branching", "Python's if and while can't depend on a picture's values there: use torch.where"),
        ("unrunnable", "encoder.onnx: simrec does not run this graph, as it has the operator 'RandomUniformLike'"),
    ],
)
def test_a_network_without_a_graph_trains_with_one_line_that_says_why(
    name: str, expected: str, photos: Path, own_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ran("train", name, "--data", photos, "--epochs", 1)
    assert status == 0
    assert f"encoder '{name}' (mine 1.0): no ONNX graph, so looking up needs this plugin ({expected})" in err
    assert len(err.splitlines()) == 7  # two of the network, its training, an epoch, the notice, and two of the end
    assert capfd.readouterr() == ("", "")
    assert store.current(own_home / name).manifest.encoder.runtime == "plugin"


@pytest.mark.usefixtures("offered")
def test_a_code_in_float64_is_trained_and_saved_as_a_graph_of_float32(photos: Path, own_home: Path) -> None:
    assert ran("train", "double", "--data", photos, "--epochs", 1)[0] == 0
    assert store.current(own_home / "double").manifest.encoder.runtime == "onnx"


class Flat(Trained):
    def code(self, x: Tensor) -> Tensor:
        return 0 * super().code(x)


@pytest.mark.usefixtures("offered")
def test_codes_that_have_collapsed_are_noticed_after_training_and_indexing(photos: Path) -> None:
    _, _, err = ran("train", "flat", "--data", photos, "--epochs", 1)
    assert "encoder 'flat' (mine 1.0): its codes have collapsed" in err
    assert "100.0% of the codes' numbers are close to zero" in err
    assert "flat: its codes have collapsed" in ran("index", "build", "flat")[2]


class Scaled(Lying):
    """A network with a number outside its weights, `scale`, which may change after training."""

    scale = 1.0

    def code(self, x: Tensor) -> Tensor:
        return self.scale * torch.as_tensor(self.layer(x.flatten(1)))

    def loss(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        return self.code(x).square().mean(), {}


class Rescaled(Scaled):
    """A network whose `scale` changes after training."""

    def finish(self, codes: Tensor) -> None:
        self.scale = 3.0


@pytest.mark.parametrize(("kind", "traces"), [(Scaled, 1), (Rescaled, 2)])
def test_a_graph_traced_before_the_training_is_kept_where_it_still_fits(
    kind: type[Scaled], traces: int, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    trace = onnx_export.trace
    monkeypatch.setattr(onnx_export, "trace", lambda model: calls.append(model) or trace(model))
    encoder = kind(AutoencoderSettings(dim=4, epochs=2))
    before = encoder.layer.weight.detach().clone()
    encoder.fit(pictures.images[:128], validation=pictures.images[:64], device="cpu")
    encoder.save(tmp_path)
    assert len(calls) == traces
    assert not torch.equal(encoder.layer.weight, before)
    onnx = OnnxEncoder(encoder.input, encoder.dim, lambda file: (tmp_path / file).read_bytes())
    np.testing.assert_allclose(onnx.encode(pictures.images[:20]), encoder.encode(pictures.images[:20]), atol=1e-5)


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simrec", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SMALL = ("--set", "widths=4", "--set", "hidden=8", "--set", "decoder=8", "--dim", "4", "--device", "cpu")


@pytest.mark.long
def test_train_then_build_then_look_up_a_folder(photos: Path, own_home: Path) -> None:
    done = run("train", "plain", "--name", "mine", "--data", str(photos), "--epochs", "2", *SMALL, home=own_home)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stderr  # the network's summary
    assert "epoch 2/2: loss" in done.stderr
    assert "validation" in done.stderr

    generation = store.current(own_home / "mine")
    record = generation.manifest.encoder
    files = {f"{record.folder}/{name}" for name in ("encoder.onnx", "decoder.onnx", "weights.safetensors")}
    assert files <= set(generation.manifest.files)
    history = json.loads(generation.read(f"{record.folder}/history.json"))
    assert len(history["epochs"]) == 2
    assert record.dim == 4
    assert record.trained_on.count == 36  # every tenth of the 40 was held out
    assert record.command.startswith("simrec train plain --name mine --data ")  # and no --home

    for words in ((), ("--encoder", "mine")):  # the weights of its own stay either way
        assert run("index", "build", "mine", *words, home=own_home).returncode == 0
        assert files <= set(store.current(own_home / "mine").manifest.files)
    found = run("similar", str(photos / "Bag" / "00030.png"), "-n", "3", "--format", "ndjson", home=own_home)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert "Bag/00030.png" not in [row["id"] for row in rows]
    assert all(Path(row["source"]).is_file() for row in rows)

    refused = run("train", "plain", "--name", "mine", "--data", str(photos), "--epochs", "1", *SMALL, home=own_home)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert store.current(own_home / "mine").manifest.catalogue is not None

    more = ["--replace", "--seed", "5", "--epochs", "1", *SMALL]
    again = CliRunner().invoke(
        cli, ["--home", str(own_home), "train", "plain", "--name", "mine", "--data", str(photos), *more],
        standalone_mode=False,
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    made = store.current(own_home / "mine").manifest
    assert made.catalogue is None
    assert made.encoder.digest != record.digest  # another seed, other weights


def start(photos: Path, home: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "simrec", "--home", str(home), "train", "plain", "--name", "mine"]
    words += ["--data", str(photos), "--epochs", "100000", *SMALL, *more]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")


@pytest.mark.long
def test_ctrl_c_ends_after_the_epoch_and_saves_the_best_so_far(photos: Path, own_home: Path) -> None:
    with start(photos, own_home) as process:
        wait_for(process, "epoch 3/")
        process.send_signal(signal.SIGINT)
        wait_for(process, "Saved in")
        assert process.wait() == 0
    assert store.current(own_home / "mine").manifest.encoder.results.ended == "interrupted"


@pytest.mark.long
def test_a_second_ctrl_c_leaves_nothing_behind(photos: Path, own_home: Path) -> None:
    # Epochs so long (2,000 steps) that the second one comes before the first is done.
    for copy in range(100):
        shutil.copytree(photos, photos / f"copy{copy}", ignore=shutil.ignore_patterns("copy*"))
    with start(photos, own_home, "--set", "batch_size=2", "--set", "widths=128,256") as process:
        wait_for(process, "Training on")
        process.send_signal(signal.SIGINT)
        wait_for(process, "Ctrl-C again")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert not (own_home / "mine").exists()


def test_ctrl_c_before_the_first_epoch_ends_at_once(
    photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Folder.read

    def read(self: Folder, entries: Any, spec: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, entries, spec)

    monkeypatch.setattr(Folder, "read", read)
    status, out, err = ran("train", "pca", "--name", "mine", "--data", photos)
    assert (status, out, err.strip()) == (130, "", "Interrupted.")
    assert not (own_home / "mine").exists()

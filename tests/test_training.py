"""Training: early stopping, interruption, failures, and the commands around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simrec_plain.model import Plain, PlainSettings
from torch import Tensor, nn

import simrec
from simrec import store
from simrec.autoencoder import Autoencoder, AutoencoderSettings
from simrec.contracts import Progress
from simrec.datasets import Pictures
from simrec.errors import StoreError, TrainingError

TINY = PlainSettings(widths=(4,), hidden=8, decoder=(8,), dim=4, epochs=6, batch_size=64)


def test_early_stopping_keeps_the_epoch_with_the_lowest_validation_loss(pictures: Pictures) -> None:
    # A learning rate this large makes the validation loss jump about.
    settings = replace(TINY, epochs=60, patience=3, learning_rate=0.2, schedule="constant")
    history = Plain(settings).fit(pictures.images[:128], validation=pictures.images[128:256], device="cpu")
    losses = [epoch.validation_loss for epoch in history.epochs]
    assert history.ended == "converged"
    assert history.kept == int(np.argmin(losses)) + 1
    assert len(losses) == history.kept + 3


def test_without_patience_every_epoch_is_trained_and_the_last_one_kept(pictures: Pictures) -> None:
    history = Plain(TINY).fit(pictures.images[:128], validation=pictures.images[128:256], device="cpu")
    assert (history.ended, len(history.epochs), history.kept) == ("finished", 6, 6)


def test_training_lowers_the_loss(pictures: Pictures) -> None:
    history = Plain(TINY).fit(pictures.images[:512], validation=pictures.images[512:600], device="cpu")
    assert history.epochs[-1].loss < 0.9 * history.epochs[0].loss


def test_stop_ends_after_the_epoch_with_the_best_so_far(pictures: Pictures) -> None:
    seen: list[Progress] = []
    history = Plain(TINY).fit(
        pictures.images[:128],
        validation=pictures.images[128:256],
        device="cpu",
        progress=seen.append,
        stop=lambda: seen[-1].epoch == 2,
    )
    losses = [epoch.loss for epoch in history.epochs]
    assert (history.ended, len(losses)) == ("interrupted", 2)
    assert history.kept == int(np.argmin(losses)) + 1


def test_a_loss_that_is_no_number_ends_the_training_with_one_line(pictures: Pictures) -> None:
    with pytest.raises(TrainingError, match="no longer finite in epoch 1"):
        Plain(replace(TINY, learning_rate=1e30, schedule="constant")).fit(
            pictures.images[:128], validation=pictures.images[:64], device="cpu"
        )


def test_one_picture_is_too_few(pictures: Pictures) -> None:
    with pytest.raises(TrainingError, match="too few"):
        Plain(TINY).fit(pictures.images[:1], validation=pictures.images[:1], device="cpu")


class Lying(Autoencoder):
    """Its graph differs from its network: under export it computes something else."""

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


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simrec", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SMALL = ("--set", "widths=4", "--set", "hidden=8", "--set", "decoder=8", "--dim", "4", "--device", "cpu")


def test_train_then_build_then_look_up_a_folder(photos: Path, own_home: Path) -> None:
    done = run("train", "plain", "--name", "mine", "--data", str(photos), "--epochs", "2", *SMALL, home=own_home)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stderr  # the network's summary
    assert "epoch 2/2: loss" in done.stderr
    assert "validation" in done.stderr

    generation = store.current(own_home / "mine")
    assert {"encoder/encoder.onnx", "encoder/decoder.onnx", "encoder/weights.safetensors"} <= set(
        generation.manifest.files
    )
    history = json.loads(generation.read("encoder/history.json"))
    assert len(history["epochs"]) == 2
    record = generation.manifest.encoder
    assert record.dim == 4
    assert record.trained_on["count"] == 36  # every tenth of the 40 was held out
    assert record.command.startswith("simrec ")

    assert run("index", "build", "mine", home=own_home).returncode == 0
    found = run("similar", str(photos / "Bag" / "00030.png"), "-n", "3", "--format", "ndjson", home=own_home)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert "Bag/00030.png" not in [row["id"] for row in rows]
    assert all(Path(row["source"]).is_file() for row in rows)

    refused = run("train", "plain", "--name", "mine", "--data", str(photos), "--epochs", "1", *SMALL, home=own_home)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert store.current(own_home / "mine").manifest.catalogue is not None


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(photos: Path, own_home: Path) -> None:
    changes = {"widths": "4", "hidden": "8", "decoder": "8", "dim": "4", "epochs": "1"}

    def weights(name: str, seed: int) -> str:
        made, _ = simrec.train("plain", name=name, source=str(photos), seed=seed, device="cpu", changes=changes)
        return str(made.generation.manifest.files["encoder/weights.safetensors"]["sha256"])

    first = weights("a", 1)
    assert weights("b", 1) == first
    assert weights("c", 2) != first


def start(photos: Path, home: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "simrec", "--home", str(home), "train", "plain", "--name", "mine"]
    words += ["--data", str(photos), "--epochs", "100000", *SMALL]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")


def test_ctrl_c_ends_after_the_epoch_and_saves_the_best_so_far(photos: Path, own_home: Path) -> None:
    with start(photos, own_home) as process:
        wait_for(process, "epoch 3/")
        process.send_signal(signal.SIGINT)
        wait_for(process, "Saved in")
        assert process.wait() == 0
    assert store.current(own_home / "mine").manifest.encoder.results["ended"] == "interrupted"


def test_a_second_ctrl_c_leaves_nothing_behind(photos: Path, own_home: Path) -> None:
    words = ("--set", "batch_size=1", "--set", "widths=64,64,64")  # an epoch long enough to interrupt twice
    with start(photos, own_home) as process:
        wait_for(process, "Training on")
        process.send_signal(signal.SIGINT)
        wait_for(process, "Ctrl-C again")
        process.send_signal(signal.SIGINT)
        status = process.wait()
    assert words
    assert status in (0, 130)
    assert status == 0 or not (own_home / "mine").exists()


def test_training_onto_a_name_needs_replace_once_it_has_a_catalogue(photos: Path, own_home: Path) -> None:
    changes = {"widths": "4", "hidden": "8", "decoder": "8", "dim": "4", "epochs": "1"}
    simrec.train("plain", name="mine", source=str(photos), device="cpu", changes=changes)
    built = simrec.build("mine")
    before = built.manifest.encoder.digest
    with pytest.raises(StoreError, match="--replace"):
        simrec.train("plain", name="mine", source=str(photos), device="cpu", changes=changes, seed=5)
    assert simrec.open("mine").manifest.encoder.digest == before
    simrec.train(
        "plain", name="mine", source=str(photos), device="cpu", changes=changes, seed=5, replace_catalogue=True
    )
    assert simrec.open("mine").manifest.encoder.digest != before
    assert simrec.open("mine").manifest.catalogue is None

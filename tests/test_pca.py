"""The encoder `pca`: the plain protocol in numpy, from training to looking up, and as a baseline of `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simrec_pca.model import PCA, PCASettings

import simrec
from simrec.contracts import Epoch, Progress
from simrec.errors import ImageError, PluginError, RequestError, TrainingError
from simrec.sources.load import Pictures
from simrec.verbs.train import Plan


def fitted(images: np.ndarray, **settings: object) -> PCA:
    pca = PCA(PCASettings(**settings))  # type: ignore[arg-type]
    pca.fit(images, validation=images[:0])
    return pca


def test_the_same_pictures_give_the_same_encoder_whatever_the_seed(pictures: Pictures, tmp_path: Path) -> None:
    files = []
    for seed in (0, 1):
        pca = PCA(PCASettings())
        pca.fit(pictures.images[:300], validation=pictures.images[300:400], seed=seed)
        pca.save(tmp_path)
        files.append((tmp_path / "weights.safetensors").read_bytes())
    assert files[0] == files[1]


def test_its_losses_are_the_squared_errors_of_what_it_rebuilds(pictures: Pictures) -> None:
    learned, held_out = pictures.images[:900], pictures.images[900:1000]
    pca, told = PCA(PCASettings(dim=40)), list[Progress]()
    history = pca.fit(learned, validation=held_out, progress=told.append)
    (epoch,) = history.epochs
    for images, loss in ((learned, epoch.loss), (held_out, epoch.validation_loss)):
        assert loss == pytest.approx(((pca.decode(pca.encode(images)) - images / 255) ** 2).mean(), rel=1e-4)
    assert told == [Progress(1, 1, 1, 1, epoch.loss, None)]
    assert isinstance(epoch, Epoch)
    assert (history.kept, history.ended) == (1, "finished")
    assert pca.fit(learned, validation=held_out, stop=lambda: True).ended == "interrupted"


def test_more_numbers_rebuild_better_and_all_of_them_rebuild_exactly(pictures: Pictures) -> None:
    small = np.ascontiguousarray(pictures.images[:500, ::3, ::3]).repeat(3, axis=-1)  # 10x10, three equal channels

    def error(dim: int) -> float:
        pca = fitted(small, size=10, channels=3, dim=dim)
        return float(((pca.decode(pca.encode(small)) - small / 255) ** 2).mean())

    assert error(5) > error(20) > error(80)
    assert error(100) < 1e-10  # the other 200 directions have nothing in them


def test_few_pictures_have_fewer_axes_than_asked_for(pictures: Pictures, tmp_path: Path) -> None:
    few = pictures.images[:12]
    pca = fitted(few, dim=32)
    assert pca.dim == 11  # twelve points span eleven directions
    assert pca.encode(few).shape == (12, 11)
    np.testing.assert_allclose(pca.decode(pca.encode(few)), few / 255, atol=1e-5)
    pca.save(tmp_path)
    assert PCA.load(tmp_path).dim == 11


def test_errors_say_what_it_cannot_learn_from_or_read(pictures: Pictures) -> None:
    same = np.repeat(pictures.images[:1], 5, axis=0)
    with pytest.raises(TrainingError, match="all the same"):
        fitted(same)
    with pytest.raises(TrainingError, match="need at least 2 pictures, not 1"):
        fitted(same[:1])
    with pytest.raises(ImageError, match=r"takes uint8 \(n, 28, 28, 1\)"):
        fitted(same[:, :20, :20])
    with pytest.raises(PluginError, match="learned nothing yet"):
        PCA(PCASettings()).encode(same)
    with pytest.raises(RequestError, match="channels is 2: it must be 1"):
        simrec.train(Plan("pca", changes={"channels": "2"}))


def test_evaluate_without_the_plugin_leaves_the_row_out_and_says_so(photos: Path, tmp_path: Path) -> None:
    simrec.build("mine", str(photos), encoder="demo")
    info = tmp_path / "site" / "other_pca-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-pca\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[simrec]\npca = other_pca\n")
    (tmp_path / "site" / "other_pca.py").write_text("from simrec_pca import simrec_encoders\n")  # takes the same name
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    def evaluated(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "simrec", "evaluate", "mine", *words], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        )  # fmt: skip

    done = evaluated("--format", "json")
    names = [row["name"] for row in json.loads(done.stdout)[0]["rows"]]
    assert names[0] == "mine"
    assert names[-1] == "raw pixels"
    assert "PCA is left out: encoder 'pca' is offered by other-pca 2.0 and simrec" in done.stderr
    assert "Trouser" in evaluated("--stress").stdout

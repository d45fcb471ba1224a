"""`simrec quickstart` without Fashion-MNIST's train pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import simrec
from simrec.cli import cli
from simrec.sources import fashion_mnist


@pytest.fixture
def no_train_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", Path("/nonexistent"))
    monkeypatch.setattr(fashion_mnist, "MIRROR", "http://127.0.0.1:9/")  # nobody listens there


@pytest.mark.long
@pytest.mark.usefixtures("no_train_pictures")
@pytest.mark.slow
def test_quickstart_goes_on_with_the_embedded_pictures_and_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["quickstart"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    for way in ("--data-dir", "apt-get install dataset-fashion-mnist", "go online", "copy them into"):
        assert way in result.stderr
    assert "REDUCED" in result.stderr
    assert "REDUCED" in result.stdout  # beside the figures
    assert "2,000 test pictures looked up among 8,000 items" in result.stdout
    assert result.stdout.count("  simrec ") == 3  # what to try next
    with Image.open(tmp_path / "simrec-quickstart.png") as sheet:
        assert sheet.height > 1000

    opened = simrec.open("quickstart")
    asked = set(opened.pictures("fashion-mnist:small-test").ids)
    assert not asked & {item.id for item in opened.catalogue.all()}
    mine, _, _, pixels, _ = simrec.evaluate(opened).rows
    assert mine["P@10"] > pixels["P@10"]
    assert mine["10-NN"] > pixels["10-NN"]

    again = CliRunner().invoke(cli, ["quickstart"], catch_exceptions=False)
    assert "earlier quickstart" in again.stderr

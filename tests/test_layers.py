"""What is imported when: the borders between modules, and what a look-up may import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "pyarrow", "sklearn", "matplotlib", "skimage", "constriction")


def imported(code: str) -> set[str]:
    """The modules that a new process has imported after running some code."""
    report = "import sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def command(*words: str) -> str:
    return f"""
from simrec.cli import main
try:
    main({list(words)!r})
except SystemExit as end:
    assert not end.code
"""


def test_help_imports_click_and_no_numpy() -> None:
    modules = imported(command("--help"))
    assert "click" in modules
    assert not modules & {"numpy", "faiss", "onnxruntime", "PIL", "pluggy", "rich", *HEAVY}


def test_similar_imports_no_torch_and_no_plugin(shoe: Path) -> None:
    modules = imported(command("similar", str(shoe), "--index", "demo"))
    assert "faiss" in modules
    assert not modules & {
        "simrec.catalogue.remote",
        "simrec.cli.training",
        "simrec_plain",
        "simrec_sparse",
        "simrec_denoising",
        "simrec_vae",
        "simrec_pca",
        "simrec_torchvision",
        *HEAVY,
    }


@pytest.mark.parametrize(
    "words",
    [
        ("index", "list"),
        ("index", "show", "demo"),
        ("reconstruct", "-o", "r.png"),
        ("denoise", "-o", "d.png"),
        ("generate", "-o", "g.png"),
        ("compress", "fashion-mnist:test", "-o", "items.simrec"),
    ],
)
def test_asking_imports_no_torch(words: tuple[str, ...]) -> None:
    assert not imported(command(*words)) & {"torch", "torchvision"}


def test_encoding_building_and_evaluating_import_no_torch(photos: Path) -> None:
    assert not imported(command("encode", str(photos), "--index", "demo", "-o", "codes.npy")) & {"torch", "torchvision"}
    assert not imported(command("index", "build", "mine", str(photos), "--encoder", "demo")) & {"torch"}
    assert not imported(command("evaluate", "mine", "--stress")) & {"torch", "torchvision"}


def test_reading_the_fields_of_an_answer_imports_only_what_it_needs(photos: Path) -> None:
    imported(command("index", "build", "mine", str(photos), "--encoder", "demo"))
    item = next((photos / "Bag").iterdir())
    modules = imported(command("similar", str(item), "--index", "mine", "--show", "width"))
    assert "pyarrow" in modules
    assert not modules & {"pandas", "pyarrow.compute", "torch"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not imported("import simrec") & {"numpy", "faiss", "onnxruntime", *HEAVY}


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        ["lint-imports", "--no-cache"], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

"""Makes the shipped recommenders: `demo`, which has a catalogue, and one without a catalogue for each other task.

    python tests/benchmarks/shipped.py                                  # all; demo alone takes 16 minutes
    python tests/benchmarks/shipped.py --only demo-sparse
    python tests/benchmarks/shipped.py --only photo --photos FOLDER --clip-art /usr/share/openclipart/png
    python tests/benchmarks/shipped.py --keep                       # rewrites the encoders that are shipped now

Each is trained as a run of `tests/benchmarks/table.py` (--runs); a finished run is used as it is. `indexes/` gets the
run without its weights, because looking up needs only the ONNX graphs. Everything shipped stays under 40 MB in all,
including the embedded test pictures and the towers of the encoder `photo`. So demo's codes are kept in 8 bits per
number, and two of the networks are narrower than their presets.

The axes of `photo` are fitted to pictures of many kinds, without their labels, so that it serves photos of anything:
the train photos of alexeygrigorev/clothing-dataset-small (CC0, on GitHub) and every sixth picture of Debian's package
openclipart-png (public domain). It contains none of these pictures.

--keep trains nothing: it keeps the graphs and writes this simrec's disk format. demo gets the newest version of its
recipe, because people look up photos with it: Fashion-MNIST's pictures have the canvas's size, so the encoder was
trained on the same pixels.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import platformdirs
from table import Row, finished, simrec, train

from simrec import library, store
from simrec.contracts import ImageSpec
from simrec.manifest import Manifest
from simrec.recommender import Recommender
from simrec.sources import fashion_mnist
from simrec.verbs.train import _digest

LIMIT = 40_000_000
TOWERS = Path(__file__).parents[2] / "plugins" / "simrec_photo" / "towers"
SHIPPED = {
    "demo": Row("plain best", "plain", "best", seeds=(0,)),
    "demo-generate": Row("small generate", "vae", "generate", ("widths=320,160", "decoder=160,320"), seeds=(0,)),
    "demo-restore": Row("restore", "denoising", "restore", seeds=(0,)),
    "demo-sparse": Row("small sparse", "sparse", "default", ("widths=48,96", "hidden=96", "decoder=96,192"), (0,)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=platformdirs.user_cache_path("simrec") / "table")
    parser.add_argument("--only", action="append", choices=[*SHIPPED, "photo"])
    parser.add_argument("--photos", type=Path, help="photos to fit the axes of `photo` to")
    parser.add_argument("--clip-art", type=Path, help="clip art to fit them to as well")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    if given.photos and given.clip_art:
        write_photo(given.photos, given.clip_art)
    for name in set(given.only or SHIPPED) - {"photo"}:
        row = SHIPPED[name]
        if not given.keep and not finished(given.runs, row, 0):
            train(given.runs, row, 0)
        with tempfile.TemporaryDirectory() as made:
            encoder = given.runs / row.name(0)
            if given.keep:
                encoder = Path(made) / "kept" / name
                without_weights(Recommender(library.shipped() / name), encoder, newest=name == "demo")
            if name == "demo":
                words = ["--encoder", str(encoder.resolve()), "--dtype", "int8"]
                simrec(Path(made), "index", "build", name, "fashion-mnist:test", *words)
            else:
                without_weights(Recommender(encoder), Path(made) / name)
            ship(Path(made) / name)
    folders = [library.shipped() / name for name in library.SHIPPED]
    sizes = {folder.name: size(folder) for folder in folders} | {"test pictures": size(fashion_mnist.EMBEDDED)}
    sizes["towers"] = size(TOWERS)
    for name, bytes_ in sizes.items():
        print(f"{name:14} {bytes_ / 1e6:5.2f} MB")
    print(f"{'together':14} {sum(sizes.values()) / 1e6:5.2f} MB of {LIMIT / 1e6:.0f}")


def write_photo(photos: Path, clip_art: Path) -> None:
    """Trains `photo` and ships it, without the paths of the pictures on this machine."""
    with tempfile.TemporaryDirectory() as made:
        files = [*sorted(photos.rglob("*.jpg")), *sorted(clip_art.rglob("*.png"))[::6]]
        pictures = Path(made) / "pictures.csv"
        with pictures.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "id"), *((path.resolve(), n) for n, path in enumerate(files))])
        words = ["--set", "smoothing=0"]  # what neighbours share differs between kinds of pictures
        simrec(Path(made), "train", "photo", *words, "--data", str(pictures), "--name", "trained")
        trained = Recommender(Path(made) / "trained")
        record = trained.manifest.encoder
        public = "clothing-dataset-small and openclipart"
        command = shlex.join(["simrec", "train", "photo", *words, "--data", "pictures.csv"])
        record = replace(record, trained_on=replace(record.trained_on, source=public), command=command)
        with store.Writer(Path(made) / "photo") as writer:
            to = writer.new("encoder")
            writer.copy(trained.generation, record.folder, to)
            manifest = Manifest(replace(record, folder=to), None, trained.manifest.created, trained.manifest.libraries)
            writer.commit(manifest)
        ship(Path(made) / "photo")


def ship(folder: Path) -> None:
    """Copies a recommender to the shipped ones, under its own name, over the one that is there."""
    target = library.shipped() / folder.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("LOCK"))


def without_weights(trained: Recommender, folder: Path, *, newest: bool = False) -> None:
    """A recommender with the same encoder, only its graphs; newest: with the newest version of its recipe."""
    record, weights = trained.manifest.encoder, "weights.safetensors"
    with store.Writer(folder) as writer:
        to = writer.new("encoder")
        writer.copy(trained.generation, record.folder, to, without=frozenset([weights]))
        names = [name for name in trained.manifest.files if name.startswith(f"{record.folder}/")]
        files = {name.removeprefix(f"{record.folder}/"): trained.generation.read(name) for name in names}
        if newest:
            spec = replace(record.input, version=ImageSpec().version)
            record = replace(record, input=spec, digest=_digest(files, spec))
        record = replace(record, folder=to)
        writer.commit(Manifest(record, None, trained.manifest.created, trained.manifest.libraries))


def size(folder: Path) -> int:
    """The bytes of its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()

"""Exported encoders: the graph and the recipe, with which programs in other languages get the same codes."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import recipe_steps
from click.testing import CliRunner
from conftest import ran
from numpy.typing import NDArray
from PIL import Image
from recipe_vectors import ENCODERS, PICTURES, PLACE
from test_plugins import PIXELS, forget_plugins

import simrec
from simrec import images, onnx_graph, recipes
from simrec.cli import cli
from simrec.contracts import ImageSpec
from simrec.errors import DataError, RequestError
from simrec.recommender import Recommender
from simrec.verbs.encoder import encoder, verify_encoder

SPECS = [
    ImageSpec(),
    ImageSpec(version=1),
    ImageSpec(40, 3),
    ImageSpec(320, 3, "photo"),
    ImageSpec(33, 1, "photo", 1),
    ImageSpec(224, 3, "crop", 2, "bicubic", 0.875),
    ImageSpec(64, 3, "crop", 1, "bilinear"),
    ImageSpec(64, 1, "squash", 2, "bicubic"),
    ImageSpec(64, 3, "squash", 1),
]

FILES = sorted(PICTURES.iterdir())
VECTORS = json.loads((PLACE / "codes.json").read_text())
GUIDE = (PLACE / "README.md").read_text()


def named(spec: ImageSpec) -> str:
    return f"{spec.recipe} {spec.version}, {spec.size} x {spec.channels}"


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def opened(name: str, demo: Recommender) -> Recommender:
    return demo if name == "demo" else simrec.open(name)


# The recipe as data.


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_the_steps_that_are_written_down_give_the_very_pixels_that_simrec_feeds(spec: ImageSpec) -> None:
    steps = json.loads(json.dumps(recipes.steps(spec)))
    for path in FILES:
        assert (recipe_steps.prepared(path, steps) == images.read(path, spec)[0]).all(), path.name


def odd() -> Iterator[tuple[str, bytes]]:
    """Pictures for the cases that the shipped ones don't cover."""
    from skimage import data

    photo = Image.fromarray(data.astronaut())
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", saved(photo.resize((733, 491)), exif=exif)
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)))
    yield "grey and alpha", saved(clear.convert("LA"))
    yield "every alpha", saved(clear)
    yield "palette", saved(photo.quantize(64))
    for size in ((3000, 2), (2, 3000), (1, 1), (640, 241), (28, 28), (64, 64)):
        yield f"{size}", saved(photo.resize(size))
        yield f"{size}, grey", saved(photo.resize(size).convert("L"))
    for colour in ((250, 248, 240), (2, 18, 40)):
        shop = Image.new("RGB", (1640, 1560), colour)
        shop.paste(photo.resize((300, 200)), (101, 77))
        yield f"item on {colour}", saved(shop)
    yield "one colour", saved(Image.new("RGB", (90, 60), "red"))
    yield "noise", saved(Image.fromarray(np.random.default_rng(1).integers(0, 256, (777, 1999, 3), dtype=np.uint8)))
    yield "17 million pixels", saved(photo.resize((5100, 3400)), "JPEG")
    yield "17 million pixels, no JPEG", saved(photo.resize((5100, 3400)))
    for size in ((1500, 1100), (4000, 3000)):
        yield f"JPEG {size}", saved(photo.resize(size), "JPEG", quality=90)


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@pytest.mark.long
@pytest.mark.slow
def test_the_written_steps_give_those_pixels_for_pictures_of_every_kind() -> None:
    for what, data in odd():
        with Image.open(io.BytesIO(data)) as picture:
            few = picture.width * picture.height > 2_000_000
        for spec in SPECS[:4:3] if few else SPECS:
            found = recipe_steps.prepared(data, recipes.steps(spec))
            assert (found == images.read(io.BytesIO(data), spec, "it")[0]).all(), f"{what}, {named(spec)}"


@pytest.mark.long
def test_a_decoder_that_cannot_decode_smaller_costs_little() -> None:
    from skimage import data

    photo, found = simrec.open("photo"), []
    steps = recipes.steps(spec := photo.manifest.encoder.input)
    for scene in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        for width, divisor in ((1400, 2), (4000, 4)):
            large = Image.fromarray(scene).resize((width, scene.shape[0] * width // scene.shape[1]))
            file = saved(large, "JPEG", quality=90)
            picture = recipe_steps.Picture(np.asarray(Image.open(io.BytesIO(file)).reduce(divisor)))
            recipe_steps.run(picture, steps[1:])
            found.append(
                cosine(*photo.encode(np.stack([images.read(io.BytesIO(file), spec, "it")[0], picture.pixels])))
            )
    assert min(found) > 0.998 and max(found) < 0.9998


def test_every_step_is_explained_with_all_that_it_says() -> None:
    parts = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", GUIDE, re.MULTILINE | re.DOTALL))
    seen: set[str] = set()

    def check(steps: list[dict[str, Any]]) -> None:
        for step in steps:
            seen.add(step["step"])
            told = parts[step["step"]] + parts["decode"] * (step["step"] == "reduce")
            assert set(step) - {"step"} <= set(re.findall(r"\w+", told.lower())), step
            for case in step.get("cases", ()):
                check(case["steps"])

    for spec in SPECS:
        check(recipes.steps(spec))
    assert seen == set(parts)


# The test vectors.


@pytest.mark.parametrize("name", ENCODERS)
def test_the_shipped_pixels_and_codes_are_what_simrec_gives(name: str, demo: Recommender) -> None:
    recommender = opened(name, demo)
    spec = recommender.manifest.encoder.input
    assert VECTORS[name]["encoder_digest"] == recommender.manifest.encoder.digest
    assert len(FILES) == 8
    fed = np.concatenate([images.read(path, spec) for path in FILES])
    kept = np.stack([np.asarray(Image.open(PLACE / "prepared" / name / f"{path.stem}.png")) for path in FILES])
    assert (fed == kept.reshape(fed.shape)).all()
    for path, code in zip(FILES, recommender.encode(fed), strict=True):
        assert cosine(code, np.array(VECTORS[name]["codes"][path.name], np.float32)) > 0.9999, path.name


def test_the_vectors_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 300_000
    assert sum(path.stat().st_size for path in PLACE.rglob("*") if path.is_file()) < 700_000


# The graph.


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The encoder of `demo`, as the command exports it."""
    done = CliRunner().invoke(cli, ["export", "demo", "-o", "encoder.onnx"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stderr == "Wrote encoder.onnx and encoder.onnx.simrec.json.\n"
    return tmp_path / "encoder.onnx"


def test_the_graph_gives_the_codes_that_simrec_gives(exported: Path, demo: Recommender) -> None:
    fed = np.concatenate([images.read(path, demo.manifest.encoder.input) for path in FILES])
    onnx.checker.check_model(exported)
    (codes,) = onnxruntime.InferenceSession(exported).run(["codes"], {"images": fed})
    np.testing.assert_allclose(codes, demo.encode(fed), atol=1e-5)


def test_the_encoders_record_is_in_the_graph_and_beside_it(exported: Path, demo: Recommender) -> None:
    session = onnxruntime.InferenceSession(exported)
    said = json.loads(session.get_modelmeta().custom_metadata_map["simrec"])
    beside = json.loads(Path(f"{exported}.simrec.json").read_text())
    assert beside.pop("digest") == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert beside == said
    record = demo.manifest.encoder
    assert (said["encoder"], said["encoder_digest"]) == (record.title, record.digest)
    assert (said["metric"], said["normalised"], said["dim"]) == ("cosine", False, 64)
    assert said["recipe_digest"] == record.input.digest
    assert said["recipe"] == recipes.steps(record.input)
    assert said["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["n", 28, 28, 1]}]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("codes", ["n", 64])]
    assert said["outputs"] == [{"name": "codes", "dtype": "float32", "shape": ["n", 64]}]
    assert set(beside) <= set(re.findall(r"`(\w+)`", GUIDE))


def test_an_exported_encoder_is_checked_like_a_file_of_codes(exported: Path, demo: Recommender) -> None:
    title = demo.manifest.encoder.title
    assert ran("verify", exported, "--index", "demo") == (
        0, f"{exported}: whole: encoder {title}, whose codes have 64 numbers\n", "",
    )  # fmt: skip
    status, _, error = ran("verify", exported, "--index", "photo")
    assert (status, f"it is encoder {title}, but photo has photo/" in error) == (1, True)
    whole, beside = exported.read_bytes(), Path(f"{exported}.simrec.json")
    place = len(whole) // 2
    for damaged in (whole[:-1], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], b""):
        exported.write_bytes(damaged)
        with pytest.raises(DataError, match="^[^\n]*encoder.onnx: altered: [^\n]* export it again$"):
            verify_encoder(exported)
    exported.write_bytes(whole)
    said = beside.read_text()
    for changed in (said.replace("cosine", "l2"), said.replace('"digest"', '"other"'), "[]", "{}", "{", '"digest"'):
        beside.write_text(changed)
        with pytest.raises(DataError, match="^[^\n]*encoder.onnx.simrec.json: [^\n]* export it again$"):
            verify_encoder(exported)
    beside.unlink()
    with pytest.raises(DataError, match="encoder.onnx.simrec.json: cannot be read as an export .No such file"):
        verify_encoder(exported)


def test_an_exported_variational_encoder_says_that_it_gives_variances_too(tmp_path: Path) -> None:
    encoder(simrec.open("demo-generate"), tmp_path / "vae.onnx")
    said = json.loads((tmp_path / "vae.onnx.simrec.json").read_text())
    assert [output["name"] for output in said["outputs"]] == ["codes", "log_variances"]


def test_but_for_its_metadata_the_graph_is_the_recommenders_own(exported: Path, demo: Recommender) -> None:
    own = demo.generation.read(f"{demo.manifest.encoder.folder}/encoder.onnx")
    assert exported.read_bytes().startswith(own)


def test_metadata_of_the_same_key_is_replaced_and_other_entries_stay(demo: Recommender) -> None:
    graph = demo.generation.read(f"{demo.manifest.encoder.folder}/encoder.onnx")
    kept = onnx_graph.with_metadata(graph, "author", "someone")
    twice = onnx_graph.with_metadata(onnx_graph.with_metadata(kept, "simrec", "é" * 200), "simrec", "{}")
    assert onnx_graph.metadata(twice) == {"author": "someone", "simrec": "{}"}
    model = onnx.load_from_string(twice)
    assert {entry.key: entry.value for entry in model.metadata_props} == onnx_graph.metadata(twice)
    assert onnx_graph.with_metadata(kept, "simrec", "{}") == twice
    for data in (b"\xff" * 20, graph[:1000]):
        with pytest.raises(ValueError):
            onnx_graph.with_metadata(data, "simrec", "{}")


def test_an_encoder_without_a_graph_is_refused_in_one_line(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "pixels-0.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pixels\nVersion: 0.5\n")
    (info / "entry_points.txt").write_text("[simrec]\npixels = pixels\n")
    hook = "@hookimpl\ndef simrec_encoders(): return [EncoderSpec('pixels', 'Pixels.', 'pixels:Pixels')]\n"
    (tmp_path / "site" / "pixels.py").write_text(f"{PIXELS}\n{hook}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    forget_plugins()
    mine, _ = simrec.train("pixels", name="mine", source=str(photos))
    with pytest.raises(RequestError, match="mine: its encoder pixels/default-784@.* runs as a Python plugin") as raised:
        encoder(mine, tmp_path / "mine.onnx")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("mine.onnx*"))
    forget_plugins()


def test_an_unwritable_place_is_one_line(demo: Recommender, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", "demo", "-o", "nowhere/encoder.onnx"])
    assert "cannot be written (No such file or directory)" in str(done.exception)


def test_options_about_items_are_wrong_usage_for_an_encoder() -> None:
    done = CliRunner().invoke(cli, ["export", "demo", "-o", "encoder.onnx", "--where", "label = 'Bag'"])
    assert done.exit_code == 2
    assert "encoder.onnx is the encoder itself" in done.stderr
    assert not Path("encoder.onnx").exists()


# Another language.

CHECK = """
import { readFileSync, writeFileSync } from "node:fs";
import { InferenceSession } from "onnxruntime-node";
import { decode, encode, prepare } from "./reference.mjs";

const answers = [];
for (const [graph, files] of JSON.parse(readFileSync("asked.json"))) {
  const { recipe } = JSON.parse(readFileSync(`${graph}.simrec.json`));
  const session = await InferenceSession.create(graph);
  for (const file of files) {
    const picture = prepare(await decode(file, recipe[0]), recipe);
    answers.push({ pixels: Array.from(picture.data), code: Array.from(await encode(session, picture)) });
  }
}
writeFileSync("answers.json", JSON.stringify(answers));
"""


@pytest.mark.external
def test_a_program_in_javascript_gets_the_same_pixels_and_codes(tmp_path: Path, demo: Recommender) -> None:
    """Runs real node, sharp and onnxruntime-node. JPEGs to be decoded smaller come as pixels: sharp can't do that."""
    assert shutil.which("npm"), "install nodejs and npm"
    shutil.copy(PLACE / "reference.mjs", tmp_path)
    packages = ["onnxruntime-node@1", "sharp@0.34"]  # which run on the node of Debian 12
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
    subprocess.run(["npm", "install", *quiet, *packages], cwd=tmp_path, check=True, timeout=240)
    asked, wanted = [], []
    for name in ENCODERS:
        recommender = opened(name, demo)
        spec = recommender.manifest.encoder.input
        encoder(recommender, tmp_path / f"{name}.onnx")
        steps, files = recipes.steps(spec), []
        for file in FILES:
            path, picture = file, recipe_steps.decoded(file, steps[0])
            with Image.open(path) as whole:
                if whole.size != picture.pixels.shape[1::-1]:
                    path = tmp_path / f"{name}-{path.stem}.png"
                    Image.fromarray(picture.pixels).save(path, exif=whole.getexif())
            files.append(str(path))
            (image,) = images.read(file, spec)
            wanted.append((file, image, np.array(VECTORS[name]["codes"][file.name])))
        asked.append((f"{name}.onnx", files))
    asked.append(("photo.onnx", [str(PICTURES / "wide.jpg")]))
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "check.mjs").write_text(CHECK)
    subprocess.run(["node", "check.mjs"], cwd=tmp_path, check=True, timeout=120)
    *answers, by_itself = json.loads((tmp_path / "answers.json").read_text())
    for answer, (path, image, code) in zip(answers, wanted, strict=True):
        assert cosine(np.array(answer["code"]), code) > 0.999, path.name
        apart = np.abs(np.array(answer["pixels"]) - image.ravel().astype(int))
        assert apart.max() <= (8 if path.name == "turned.jpg" else 0), path.name  # two decoders of JPEG
    assert cosine(np.array(by_itself["code"]), np.array(VECTORS["photo"]["codes"]["wide.jpg"])) > 0.997
    line = subprocess.run(
        ["node", "reference.mjs", "demo.onnx", str(PICTURES / "item.png")],
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    ).stdout  # fmt: skip
    assert cosine(np.array(json.loads(line)["code"]), np.array(VECTORS["demo"]["codes"]["item.png"])) > 0.9999

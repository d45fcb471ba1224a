"""Exports an encoder and checks it: its graph, with everything that a program in any language needs to run it."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simrec.errors import DataError, RequestError
from simrec.exporters.files import record_path
from simrec.exporters.reading import LARGEST, reading
from simrec.files import opened, read, replacing_all
from simrec.onnx_encoder import OnnxEncoder
from simrec.recommender import Recommender

RECORD = 1
"""The version of an encoder's record."""


def encoder(recommender: Recommender, path: Path) -> list[Path]:
    """Writes a recommender's encoder as an ONNX graph with `record` in its metadata, under the key "simrec".

    A JSON file beside it holds the same record and the graph's SHA-256, because not every program can read the
    metadata. Returns the files. Raises RequestError for an encoder without a graph, StoreError if it can't be written.
    """
    from simrec import onnx_graph

    said = record(recommender)
    manifest = recommender.manifest.encoder
    graph = recommender.generation.read(f"{manifest.folder}/encoder.onnx")
    graph = onnx_graph.with_metadata(graph, "simrec", json.dumps(said))
    digest = hashlib.sha256(graph).hexdigest()
    beside = record_path(str(path))
    with replacing_all([path, beside]) as (file, description):
        file.write(graph)
        description.write(json.dumps({**said, "digest": digest}, indent=1).encode() + b"\n")
    return [path, beside]


def verify_encoder(path: Path, recommender: Recommender | None = None) -> dict[str, Any]:
    """Checks a graph that `encoder` wrote, and the record in it, against the file beside it; returns the record.

    recommender: must have this encoder. Raises DataError if the files can't be read, are not what was written, or are
    of another encoder.
    """
    from simrec import onnx_graph

    beside = record_path(str(path))
    with reading(str(path)), opened(path) as file:
        graph = file.read()
    with reading(str(beside)), opened(beside) as file:
        said = dict[str, Any](json.loads(read(file, LARGEST)))
        if missing := {"encoder", "encoder_digest", "dim", "digest"} - said.keys():
            raise ValueError(f"it says no {min(missing)}")
        digest = said.pop("digest")
    if digest != hashlib.sha256(graph).hexdigest():
        raise DataError(f"{path}: altered: it is not the graph whose digest {beside.name} has: export it again")
    with reading(str(path)):
        same = said == json.loads(onnx_graph.metadata(graph)["simrec"])
    if not same:
        raise DataError(f"{beside}: altered: it says other things than the record in {path.name}: export it again")
    if recommender is not None and said["encoder_digest"] != recommender.manifest.encoder.digest:
        raise DataError(
            f"{path}: it is encoder {said['encoder']}, but {recommender.name} has "
            f"{recommender.manifest.encoder.title}: name the recommender that it was exported from"
        )
    return said


def record(recommender: Recommender) -> dict[str, Any]:
    """An encoder's record, as JSON values.

    version: of this record. simrec: the version that made it. encoder, encoder_digest, recipe_digest, metric, dim: as
    in a file of codes. normalised: whether its codes have a length of 1. inputs, outputs: of the graph, with dtypes and
    shapes ("n" pictures at a time). recipe: the steps from a picture file to the input: `simrec.recipes`.

    Raises RequestError for an encoder without a graph.
    """
    from simrec import recipes

    manifest, fitted = recommender.manifest.encoder, recommender.encoder
    if not isinstance(fitted, OnnxEncoder):
        raise RequestError(
            f"{recommender.name}: its encoder {manifest.title} runs as a Python plugin and has no graph: train one "
            f"that writes encoder.onnx, such as photo"
        )
    feed, results = fitted.names
    return {
        "version": RECORD,
        "simrec": version("simrec"),
        "encoder": manifest.title,
        "encoder_digest": manifest.digest,
        "recipe_digest": manifest.input.digest,
        "metric": manifest.metric,
        "normalised": False,
        "dim": manifest.dim,
        "inputs": [{"name": feed, "dtype": "uint8", "shape": ["n", *manifest.input.shape]}],
        "outputs": [{"name": name, "dtype": "float32", "shape": ["n", manifest.dim]} for name in results],
        "recipe": recipes.steps(manifest.input),
    }

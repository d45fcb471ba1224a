"""Recommenders and containers as a stranger could make them, out of healthy ones.

Whatever is changed is sealed: the digests are made to fit, so that only a check of the contents can notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any

import faiss
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pyarrow as pa
from PIL import Image

ENCODER, DECODER, PRIOR, CODE_MODEL = "encoder.onnx", "decoder.onnx", "prior.npz", "code_model.npz"
TABLE, INDEX, PREVIEWS, LENGTHS = "items.sqlite", "codes.faiss", "previews.bin", "lengths.npy"
MANIFEST, FIELDS, REMOVED = "the manifest", "its fields", "what was removed"
ENCODERS, SEGMENT = "{encoder}", "{segment}"
"""What the files and folders of a recommender are called here, whatever its format calls them: see `Target.name`."""

MORE, COLUMNS, GONE = "segments/0123456789abcdef", "fields/0123456789abcdef.arrow", "removed/0123456789abcdef.npy"
"""What a stranger adds to a recommender."""

ALL = frozenset(["similar", "id", "list", "show", "build", "export", "grid", "reconstruct", "original"])
ENCODES, SEARCHES = ALL - {"list", "show", "export", "id"}, frozenset(["similar", "id", "export", "grid", "original"])
DRAWS, DECODES = frozenset(["grid"]), frozenset(["reconstruct", "original"])
STORED = frozenset(["id", "original", "export"])
COMPARES, FIELDED = frozenset(["similar", "id", "grid"]), SEARCHES - {"original"}
USES = {
    ENCODER: ENCODES, DECODER: DECODES | {"build"}, TABLE: SEARCHES, INDEX: SEARCHES, PREVIEWS: DRAWS,
    LENGTHS: STORED, ENCODERS: ENCODES, "encoder": ENCODES, SEGMENT: SEARCHES, "segments": SEARCHES, MANIFEST: ALL,
    "generations": ALL, "CURRENT": ALL, FIELDS: FIELDED, REMOVED: SEARCHES, "fields": FIELDED,
    "removed": SEARCHES,
}  # fmt: skip
"""The commands that need a file or folder."""

OLD = "format 2"
"""In place of a dtype: a recommender of format 2, a folder for its one generation."""


class Target:
    """A copy of a healthy recommender in `root`/home, to be changed in place.

    outside, here: folders in `root` that nothing may change; commands run in the second.
    """

    def __init__(self, folder: Path, root: Path, random: Random) -> None:
        self.folder, self.random = folder, random
        self.outside, self.here = root / "outside", root / "here"
        self.generation = (folder / "CURRENT").read_text().split()[0]
        self.old = "-" in self.generation
        gens = f"gens/{self.generation}"
        self._manifest = f"{gens}/manifest.json" if self.old else f"generations/{self.generation}.json"
        self.manifest: Any = json.loads((folder / self._manifest).read_bytes())
        encoder = f"{gens}/encoder" if self.old else self.manifest["encoder"]["folder"]
        segment = gens if self.old else self.manifest["catalogue"]["segments"][0]["folder"]
        index, previews = ("index.faiss", "thumbnails-000001.bin") if self.old else (INDEX, PREVIEWS)
        self._names = {
            "{outside}": str(self.outside), ENCODERS: encoder, SEGMENT: segment, MANIFEST: self._manifest,
            **{name: f"{encoder}/{name}" for name in (ENCODER, DECODER, PRIOR, CODE_MODEL)},
            **{name: f"{segment}/{name}" for name in (TABLE, LENGTHS)},
            INDEX: f"{segment}/{index}", PREVIEWS: f"{segment}/{previews}", FIELDS: COLUMNS, REMOVED: GONE,
        }  # fmt: skip

    def name(self, text: Any) -> Any:
        """What a file or folder is called in this recommender; in other texts and in values, what stands in braces."""
        if isinstance(text, str):
            if text in self._names:
                return self._names[text]
            for key, value in self._names.items():
                text = text.replace(key, value) if key[0] == "{" else text
            return text
        if isinstance(text, dict):
            return {self.name(key): self.name(value) for key, value in text.items()}
        return [self.name(value) for value in text] if isinstance(text, list) else text

    def place(self, name: str) -> Path:
        """Where a file or folder lies."""
        return self.folder / self.name(name)

    def read(self, name: str) -> bytes:
        return self.place(name).read_bytes()

    def write(self, name: str, data: bytes, path: Path | None = None) -> None:
        """Replaces a file, in place of which there may be a link to a healthy one, and its digest."""
        path = path or self.place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        self.list(name, len(data), hashlib.sha256(data).hexdigest())

    def list(self, name: str, size: int, sha256: str) -> None:
        """Lists a file in the manifest."""
        inside = self.name(name).removeprefix(f"gens/{self.generation}/") if self.old else self.name(name)
        self.manifest["files"][inside] = {"size": size, "sha256": sha256}
        self.seal()

    def set(self, place: str, value: object, *, drop: bool = False) -> None:
        """Changes a value of the manifest, e.g. "encoder/dim", or drops it."""
        *path, last = (int(key) if key.isdecimal() else self.name(key) for key in place.split("/"))
        values = self.manifest
        for key in path:
            values = values[key]
        values[last] = self.name(value)
        if drop:
            del values[last]
        self.seal()

    def seal(self, manifest: bytes | None = None, name: str | None = None) -> None:
        """Writes the manifest and the digest of it; name: the generation that CURRENT names."""
        data = json.dumps(self.manifest).encode() if manifest is None else manifest
        for path, content in (
            (self.folder / self._manifest, data),
            (self.folder / "CURRENT", f"{name or self.generation} {hashlib.sha256(data).hexdigest()}\n".encode()),
        ):
            path.unlink(missing_ok=True)
            path.write_bytes(content)


def as_format_2(healthy: Path, folder: Path) -> Path:
    """The same recommender as a simrec of format 2 wrote it: in a folder for its one generation."""
    generation, _ = (healthy / "CURRENT").read_text().split()
    values = json.loads((healthy / "generations" / f"{generation}.json").read_bytes())
    inside = folder / "gens" / "000001-0123abcd"
    shutil.copytree(healthy / values["encoder"].pop("folder"), inside / "encoder")
    segment = healthy / values["catalogue"]["segments"][0]["folder"]
    shutil.copy(segment / INDEX, inside / "index.faiss")
    table, thumbnails = sqlite3.connect(inside / TABLE), b""
    table.execute("ATTACH ? AS now", [str(segment / TABLE)])
    table.execute(SCHEMA_2)
    (listed,) = values["catalogue"].pop("sources")
    root = listed.pop("root")
    for row, id_, inside_root, label in table.execute("SELECT row, id, source, label FROM now.items").fetchall():
        source = f"{root}/{inside_root}"
        grey = Image.open(source).convert("L")
        file = io.BytesIO()
        grey.save(file, "PNG")
        pixels = hashlib.blake2b(grey.tobytes(), digest_size=8).digest()
        place = ("thumbnails-000001.bin", len(thumbnails), len(file.getvalue()))
        table.execute(
            "INSERT INTO main.items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (row, id_, source, label, pixels, *place)
        )
        thumbnails += file.getvalue()
    table.execute("CREATE INDEX by_pixels ON items (pixels)")
    table.commit()
    table.close()
    (inside / "thumbnails-000001.bin").write_bytes(thumbnails)
    for name in ("version", "interpolation", "crop_pct"):
        del values["encoder"]["input"][name]
    del values["change"]
    for name in ("distances", "measured", "engine"):
        del values["catalogue"][name]
    values["catalogue"] |= {"source": listed.pop("name"), **listed, "segments": ["thumbnails-000001.bin"]}
    values["files"] = {
        path.relative_to(inside).as_posix(): {
            "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(inside.rglob("*")) if path.is_file()
    }  # fmt: skip
    manifest = json.dumps({**values, "version": 2}).encode()
    (inside / "manifest.json").write_bytes(manifest)
    (folder / "CURRENT").write_text(f"{inside.name} {hashlib.sha256(manifest).hexdigest()}\n")
    return folder


SCHEMA_2 = """CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    label TEXT NOT NULL,
    pixels BLOB NOT NULL,
    segment TEXT NOT NULL,
    start INTEGER NOT NULL,
    length INTEGER NOT NULL
)"""


Make = Callable[[Target], object]


@dataclass(frozen=True)
class Case:
    """make: changes a copy of a healthy one. hit: the commands that must fail, others may. dtype: its codes' or OLD."""

    make: Make
    hit: frozenset[str]
    dtype: str = "int8"


# Manifests.


def named(name: str, source: str | None = None) -> Make:
    """Lists a file under a name that leads elsewhere; source: where, from the home, it is to be read."""

    def make(target: Target) -> None:
        path = target.folder.parent / source if source else None
        target.write(target.name(name), b"of a stranger", path)

    return make


def value(place: str, new: object, *, drop: bool = False) -> Make:
    return lambda target: target.set(place, new, drop=drop)


def both(*makes: Make) -> Make:
    return lambda target: [make(target) for make in makes]


def raw(change: Callable[[bytes], bytes]) -> Make:
    return lambda target: target.seal(change(json.dumps(target.manifest).encode()))


PATHS: list[object] = [
    "../good", "/etc", "segments/../../good", "segments/0123456789abcdef/../../../good", "building", "", ".", 5, None,
    "segments/0123456789abcdef\n", "segments\\\\0123456789abcdef", "{segment}/", "gens/000001-01234567/..",
]  # fmt: skip
"""No folder of a segment."""

VALUES: dict[str, list[object]] = {
    "encoder/dim": ["64", None, 0, -1, 2**63, 1e308, float("nan"), [64], True],
    "encoder/input": [{}, {"size": 0}, {"size": 10**6, "channels": 1, "recipe": "photo"}, [28, 1, "fashion"],
                      {"size": 28, "channels": 1, "recipe": "fashion"}],
    "encoder/input/channels": [0, 2, "1"],
    "encoder/input/recipe": ["raw", None],
    "encoder/input/version": [0, 99, "1", None],
    "encoder/metric": ["dot", None],
    "encoder/runtime": ["shell", None],
    "encoder/decodes": ["yes", 1],
    "encoder/digest": ["../../outside", "", 7],
    "encoder/folder": ["../good", "/etc", "encoder/..", "{encoder}/..", "{segment}", "encoder", "", 5, None,
                       "encoder/0123456789abcdef", "encoder/0123456789abcdef\n"],
    "encoder/trained_on": [None, {}, [], {"source": 5}],
    "encoder/settings": [None, []],
    "encoder/new": [1],
    "catalogue": [[], True, "none", {}],
    "catalogue/count": ["40", -1, 2**63, 40.5, None],
    "catalogue/dtype": ["float16", None],
    "catalogue/labelled": ["yes"],
    "catalogue/sources": [None, [], {}, ["shop"], [{}], [{"name": "shop"}]],
    "catalogue/sources/0/root": [5, [], "\ud800"],
    "catalogue/sources/0/new": [1],
    "catalogue/distances": [None, ["0.5"], [None], 5, [0.0] * 1002],
    "catalogue/measured": [-1, "40", None, 2**63],
    "change": [5, [], {}, {"command": "index; rm"}, {"command": "index.sync", "added": -1}],
    "catalogue/segments": ["previews.bin", [5], ["../../CURRENT"], ["codes.faiss", "/etc/hostname"], {}, [{}], None,
                           [{"folder": "../../CURRENT", "rows": 40}]],
    "catalogue/segments/0/folder": PATHS,
    "catalogue/segments/0/rows": [0, -1, 2**63, "40", None, 40.5, True],
    "catalogue/segments/0/format": [1, 4, 6, "3", None],
    "catalogue/segments/0/fields": ["../good/CURRENT", "/etc/hostname", "fields", 5, f"{COLUMNS}/../x", f"{COLUMNS}\n"],
    "catalogue/segments/0/removed": ["../good/CURRENT", "/etc/hostname", "removed", [3], f"{GONE}/../x", f"{GONE}\n"],
    "catalogue/segments/0/new": [1],
    "created": [5, None],
    "libraries": [[], {"numpy": {}}],
    "files": [[], None, {INDEX: 5}, {INDEX: {"size": "1"}}],
    f"files/{INDEX}": [{"size": -1, "sha256": "0"}, {"size": 2**70, "sha256": None}, None],
    "version": [None, "3", 0, -3, 2.5, 1, 2, 3, 4, 6],
}  # fmt: skip
"""What none of the manifest's values may be."""

LATER: dict[str, list[object]] = {
    "catalogue/count": [39, 41, 0, 10**12],
    "catalogue/segments": [[]],
    "catalogue/segments/0/rows": [39, 41, 2**40],
    "catalogue/segments/0/folder": [MORE, "gens/000001-01234567"],
    "catalogue/segments/0/format": [2, 3],
    "catalogue/segments/0/fields": [COLUMNS, "{segment}/codes.faiss", "{encoder}/encoder.onnx"],
    "catalogue/segments/0/removed": [GONE, "{segment}/codes.faiss", "{encoder}/encoder.onnx"],
}
"""What may stand there, but not in this recommender: known when the catalogue is asked."""

CONTROLS = "\x1b]0;owned\x07\x1b[31m\n\x9b2J\r"
SPOKEN = [
    "encoder/name",
    "encoder/preset",
    "encoder/command",
    "encoder/provider",
    "catalogue/sources/0/name",
    "created",
]
"""Values that are shown."""

MANIFESTS = {
    "a manifest that is no JSON": lambda data: b"{" + data,
    "a manifest that is a list": lambda data: b"[" + data + b"]",
    "a manifest that is no UTF-8": lambda data: data.replace(b"fashion", b"f\xff"),
    "a manifest nested 100,000 deep": lambda data: b"[" * 100_000,
    "a manifest with a value nested 100,000 deep": lambda data: data.replace(b'"seed": 0', b'"seed": ' + b"[" * 10**5),
    "a manifest with a number of 10,000 digits": lambda data: data.replace(b'"dim": 64', b'"dim": ' + b"9" * 10_000),
    "a manifest that is empty": lambda data: b"",
    "a manifest of null bytes": lambda data: bytes(5000),
}

CURRENTS = {
    "empty": b"", "no UTF-8": b"\xff\xfe\x00", "50 MB": b"A" * 50_000_000, "a path": b"../../outside " + b"0" * 64,
    "an absolute path": b"/etc " + b"0" * 64, "escapes": b"\x1b[31m000001 " + b"0" * 64,
    "a digest that is none": b"000001 \x1b[31m", "a path behind a number": b"000001/../../../outside " + b"0" * 64,
    "a generation of format 2 that is not there": b"000001-00000000 " + b"0" * 64,
    "a number of 1,000 digits": b"9" * 900 + b" " + b"0" * 64,
    "digits that are not ASCII": "\u0660\u0660\u0660\u0660\u0660\u0661 ".encode() + b"0" * 64,
}  # fmt: skip


def current(data: bytes) -> Make:
    def make(target: Target) -> None:
        target.seal()
        (target.folder / "CURRENT").write_bytes(data)

    return make


# Places: what lies where a file or folder should.


def fifo(name: str) -> Make:
    return lambda target: (target.place(name).unlink(), os.mkfifo(target.place(name)))


def folder_at(name: str) -> Make:
    return lambda target: (target.place(name).unlink(), target.place(name).mkdir())


def gone(name: str) -> Make:
    return lambda target: target.place(name).unlink()


def link(name: str) -> Make:
    def make(target: Target) -> None:
        path, moved = target.place(name), target.outside / "moved"
        path.rename(moved)
        path.symlink_to(target.random.choice([moved, os.path.relpath(moved, path.parent)]))

    return make


def sparse(target: Target) -> None:
    """A file that takes no room on the disk."""
    with (target.place(ENCODERS) / "more.bin").open("wb") as file:
        file.truncate(20 * 10**9)
    target.list(f"{target.name(ENCODERS)}/more.bin", 20 * 10**9, "0" * 64)


def many(target: Target) -> None:
    """More files than a process may have open."""
    for number in range(5000):
        name = f"{target.name(ENCODERS)}/{number}"
        (target.folder / name).write_bytes(b"")
        target.manifest["files"][name] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    target.seal()


def numbered(name: str) -> Make:
    """The live generation has that name."""

    def make(target: Target) -> None:
        path = target.folder / "generations" / f"{name}.json"
        target.place(MANIFEST).rename(path)
        target.seal(name=name)
        target.place(MANIFEST).rename(path)

    return make


def in_folder(version: int) -> Make:
    """A manifest of this format where one of format 2 lies, and the other way round."""

    def make(target: Target) -> None:
        target.manifest["version"] = version
        path = target.folder / "gens" / "000002-01234567" / "manifest.json"
        path.parent.mkdir(parents=True)
        target.seal(name="000002-01234567")
        target.place(MANIFEST).rename(path)

    return make


def unlisted(target: Target) -> None:
    """Files and links in the encoder's folder that no manifest lists."""
    (target.outside / "weights").write_bytes(b"weights")
    (target.place(ENCODERS) / "weights.safetensors").symlink_to(target.outside / "weights")
    (target.place(ENCODERS) / "sitecustomize.py").write_text("raise SystemExit('run')")


def plugin(provider: str, name: str, factory: str) -> Make:
    """An encoder that is said to need a plugin."""

    def make(target: Target) -> None:
        record = {"runtime": "plugin", "provider": provider, "name": name, "factory": factory}
        target.manifest["encoder"].update(record)
        target.seal()
        unlisted(target)

    return make


# Graphs.

BEFORE = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "stranger" : 1]>
g (GIVEN) => (MADE) {
  pixels = Cast <to = 1> (images)
  flat = Flatten (pixels)
  first = Constant <value_ints = [300]> ()
  last = Constant <value_ints = [364]> ()
  one = Constant <value_ints = [1]> ()
  inner = Slice (flat, first, last, one)
  yes = Constant <value = bool {1}> ()
"""
GIVEN, MADE = "uint8[N,28,28,1] images", "float[N,64] codes"
EXPANDED = "big = ConstantOfShape (n) top = ReduceMax (big) some = Reshape (top, one) codes = Add (inner, some) }"
SPIN = "spin (int64 i, bool go, float[N,64] x) => (bool on, float[N,64] y) { on = Identity (go) y = Identity (x) }"
GRAPHS = {
    "loops": f"n = Constant <value_int = {2**62}> () codes = Loop (n, yes, inner) <body = {SPIN}> }}",
    "has a short loop": f"n = Constant <value_int = 3> () codes = Loop (n, yes, inner) <body = {SPIN}> }}",
    "branches": "codes = If (yes) <then_branch = a () => (float[N,64] t) { t = Identity (inner) },"
    " else_branch = b () => (float[N,64] e) { e = Neg (inner) }> }",
    "scans": "codes = Scan <num_scan_inputs = 1, body = s (float[64] x) => (float[64] y) { y = Neg (x) }> (inner) }",
    "has a function": 'codes = stranger.twice (inner) } <domain: "stranger", opset_import: ["" : 17]>'
    " twice (x) => (y) { y = Add (x, x) }",
    "has an operator of a stranger": "codes = stranger.Op (inner) }",
    "has an operator of Microsoft's": "codes = com.microsoft.Gelu (inner) }",
    "expands to 10^11 numbers": f"n = Constant <value_ints = [{10**11}]> () {EXPANDED}",
    "expands to 10^9 numbers": f"n = Constant <value_ints = [{10**9}]> () {EXPANDED}",
    "is slow for all but black pictures": f"top = ReduceMax <keepdims = 0> (flat) n = Cast <to = 7> (top)"
    " by = Constant <value_int = 40> () m = Mul (n, by) k = Add (m, one) size = Concat <axis = 0> (k, k)"
    f" x0 = ConstantOfShape (size) {' '.join(f'x{i + 1} = MatMul (x{i}, x{i})' for i in range(9))}"
    " most = ReduceMax (x9) some = Reshape (most, one) codes = Add (inner, some) }",
    "gives codes of another length": ("codes = Concat <axis = 1> (inner, inner) }", GIVEN, "float[N,128] codes"),
    "gives codes of no known length": ("codes = Concat <axis = 1> (inner, inner) }", GIVEN, "float[N,D] codes"),
    "gives one code too many": ("codes = Concat <axis = 0> (inner, inner) }", GIVEN, "float[M,64] codes"),
    "gives float64": ("codes = Cast <to = 11> (inner) }", GIVEN, "double[N,64] codes"),
    "gives text": ("codes = Cast <to = 8> (inner) }", GIVEN, "string[N,64] codes"),
    "gives no codes": ("numbers = Identity (inner) }", GIVEN, "float[N,64] numbers"),
    "gives codes that are not finite": "zero = Sub (inner, inner) codes = Div (zero, zero) }",
    "takes a second input": ("codes = Add (inner, more) }", f"{GIVEN}, float[N,64] more", MADE),
    "takes float32": ("codes = Identity (inner) }", "float[N,28,28,1] images", MADE),
    "takes other pictures": ("codes = Identity (inner) }", "uint8[N,32,32,1] images", MADE),
}  # fmt: skip


def graph(text: str | tuple[str, str, str]) -> Make:
    """A graph whose codes are some of the pixels, but for what a text in ONNX's own language makes of them."""
    body, given, made = (text, GIVEN, MADE) if isinstance(text, str) else text
    whole = BEFORE.replace("GIVEN", given).replace("MADE", made) + body
    return lambda target: target.write(ENCODER, onnx.parser.parse_model(whole).SerializeToString())


def external(location: str, *, constant: bool = False, name: str = ENCODER, **more: str) -> Make:
    """The largest weights of a graph lie in a file; {here} and {outside} stand for folders."""

    def make(target: Target) -> None:
        model = onnx.load_from_string(target.read(name))
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        for path in (target.here / "weights.bin", target.outside / "weights.bin"):
            path.write_bytes(weights.raw_data)
        place = location.format(here=target.here, outside=target.outside)
        for key, value in {"location": place, "offset": "0", "length": str(len(weights.raw_data)), **more}.items():
            weights.external_data.add(key=key, value=value)
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        if constant:
            node = onnx.helper.make_node("Constant", [], [weights.name], value=weights)
            model.graph.node.insert(0, node)
            model.graph.initializer.remove(weights)
        target.write(name, model.SerializeToString())

    return make


def ort_format(target: Target) -> None:
    """ONNX Runtime's own format under the name of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target.outside / "graph.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(target.read(ENCODER), options, providers=["CPUExecutionProvider"])
    target.write(ENCODER, (target.outside / "graph.ort").read_bytes())


def contents(name: str, change: Callable[[bytes], bytes]) -> Make:
    return lambda target: target.write(name, change(target.read(name)))


# Indexes.


def index_of(kind: str, metric: int = faiss.METRIC_INNER_PRODUCT, rows: int = 40, dim: int = 64) -> Make:
    """Codes in an index of FAISS that its factory makes of a text."""

    def make(target: Target) -> None:
        codes = np.ascontiguousarray(np.vstack([codes_of(target)] * 2)[:, :dim])
        made = faiss.index_factory(dim, kind.removeprefix("IDMap,"), metric)
        made.train(codes)
        codes = codes[:rows]
        if kind.startswith("IDMap,"):
            made = faiss.IndexIDMap(made)
            made.add_with_ids(codes, np.arange(len(codes)) + 2**40)
        else:
            made.add(codes)
        target.write(INDEX, faiss.serialize_index(made).tobytes())

    return make


def codes_of(target: Target) -> Any:
    index = faiss.deserialize_index(np.frombuffer(target.read(INDEX), np.uint8))
    return index.reconstruct_n(0, index.ntotal)


def on_disk(target: Target) -> None:
    """An index whose lists are a file of someone else's."""
    path, codes = target.outside / "lists", codes_of(target)
    made = faiss.index_factory(codes.shape[1], "IVF1,Flat", faiss.METRIC_INNER_PRODUCT)
    made.train(codes)
    lists = faiss.OnDiskInvertedLists(1, made.code_size, str(path))
    made.replace_invlists(lists)
    made.add(codes)
    target.write(INDEX, faiss.serialize_index(made).tobytes())
    path.write_bytes(b"a letter to someone")


def no_ranges(data: bytes) -> bytes:
    made = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    faiss.copy_array_to_vector(np.full(made.sq.trained.size(), np.nan, np.float32), made.sq.trained)
    return faiss.serialize_index(made).tobytes()


def sized(old: int, new: int) -> Callable[[bytes], bytes]:
    """Another number where a size stands, wherever it does."""
    return lambda data: data.replace(struct.pack("<Q", old), struct.pack("<Q", new))


# Tables.

REST = "label, stamp, content, start, length, preview, checksum"
ENDLESS = "WITH RECURSIVE n(row) AS (SELECT 0 UNION ALL SELECT row + 1 FROM n)"
TABLES = {
    "is a recursive view": f"ALTER TABLE items RENAME TO mine; CREATE VIEW items AS {ENDLESS} SELECT row, 'a' AS id,"
    " 0 AS origin, 'a' AS source, 'a' AS label, '' AS stamp, x'00' AS content, 0 AS start, 9 AS length, 0 AS preview,"
    " 0 AS checksum FROM n",
    "is a view": "ALTER TABLE items RENAME TO mine; CREATE VIEW items AS SELECT * FROM mine",
    "has a recursive view": f"CREATE VIEW more AS {ENDLESS} SELECT * FROM n",
    "has a trigger": "CREATE TRIGGER t AFTER DELETE ON items BEGIN SELECT 1; END",
    "has another table beside it": "CREATE TABLE more (x)",
    "has another column": "ALTER TABLE items ADD COLUMN more TEXT",
    "has a generated column": "CREATE TABLE mine (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, origin INTEGER,"
    f" source TEXT NOT NULL, label TEXT AS (hex(zeroblob(200000000))), {REST.removeprefix('label, ')});"
    f" INSERT INTO mine SELECT row, id, origin, source, {REST.removeprefix('label, ')} FROM items;"
    " DROP TABLE items; ALTER TABLE mine RENAME TO items",
    "has an index on an expression": "CREATE INDEX more ON items (hex(zeroblob(length(id))))",
    "lacks its index": "DROP INDEX by_content",
    "has the schema of format 2": f"DROP TABLE items; {SCHEMA_2}",
    "has ids that are blobs": "UPDATE items SET id = CAST(id AS BLOB)",
    "has ids that are no UTF-8": "UPDATE items SET id = CAST(x'ff' AS TEXT) || row",
    "has stamps that are blobs": "UPDATE items SET stamp = CAST(stamp AS BLOB)",
    "has checksums of previews that are decimal numbers": "UPDATE items SET preview = 0.5",
    "has labels that are missing": f"CREATE TABLE mine AS SELECT row, id, origin, source, NULL AS {REST} FROM items;"
    " DROP TABLE items; ALTER TABLE mine RENAME TO items",
    "has labels that are missing, against its own rules": "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql ="
    " replace(sql, 'label TEXT NOT NULL', 'label TEXT') WHERE name = 'items'; PRAGMA writable_schema = RESET;"
    " UPDATE items SET label = NULL; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql ="
    " replace(sql, 'label TEXT', 'label TEXT NOT NULL') WHERE name = 'items'",
    "has gaps": "UPDATE items SET row = row + 1000 WHERE row >= 20",
    "has too few rows": "DELETE FROM items WHERE row >= 20",
    "has no rows": "DELETE FROM items",
    "has too many rows": f"INSERT INTO items SELECT row + 40, 'x' || id, origin, source, {REST} FROM items",
    "has a row of 2^62": f"UPDATE items SET row = {2**62} WHERE row = 39",
}
UNSEALED = {
    "other labels": "UPDATE items SET label = 'x'", "other sources": "UPDATE items SET source = '/etc/hostname'",
    "other ids": "UPDATE items SET id = 'x' || id", "other contents": "UPDATE items SET content = x'00'",
    "other origins": "UPDATE items SET origin = 1",
    "other previews": "UPDATE items SET preview = preview + 1", "other stamps": "UPDATE items SET stamp = 'x'",
    "a checksum that is text": "UPDATE items SET checksum = 'x'", "a checksum of zero": "UPDATE items SET checksum = 0",
}  # fmt: skip
"""Changes that a row's checksum shows; what reads all rows looks at the whole file's digest instead."""
ROWS = {
    "a row that is missing": ("DELETE FROM items WHERE row = 20", frozenset(["export"])),
    "rows of negative numbers": ("UPDATE items SET row = -1 - row WHERE row < 39", SEARCHES),
    "contents that are empty": ("UPDATE items SET content = x''", frozenset()),
    "contents of 1 MB": ("UPDATE items SET content = zeroblob(1000000)", frozenset()),
    "the same content in every row": ("UPDATE items SET content = x'00112233445566778899aabbccddeeff'", frozenset()),
    "stamps of 1 MB": ("UPDATE items SET stamp = hex(zeroblob(500000))", frozenset()),
    "sources of null bytes": ("UPDATE items SET source = char(0, 47, 0)", frozenset(["original"])),
    "sources that are a device": ("UPDATE items SET source = '/dev/zero'", frozenset(["original"])),
    "sources that are a folder": ("UPDATE items SET source = '/'", frozenset(["original"])),
    "sources that are a pipe": ("UPDATE items SET source = '{outside}/pipe'", frozenset(["original"])),
    "sources that are no paths": ("UPDATE items SET source = char(10, 27, 155) || '..'", frozenset(["original"])),
    "sources above their root": ("UPDATE items SET source = '../../../../../../etc/hostname'", frozenset(["original"])),
    "origins that there aren't": ("UPDATE items SET origin = 7", SEARCHES),
    "sources of 1 MB": ("UPDATE items SET source = '/' || hex(zeroblob(500000))", frozenset(["original"])),
}
"""Sealed rows, and the commands that can't do with them."""
PLACES = {
    "starts before its file": "start = -1", "starts beyond its file": f"start = {2**62}", "starts nowhere": "start='x'",
    "ends beyond its file": f"length = {2**62}", "has a negative length": "length = -5", "has no length": "length = 0",
    "is 2^62 bytes": f"start = 0, length = {2**62}", "is all previews": "start = 0, length = 20000",
    "is another item's": "start = 0, length = (SELECT length FROM items WHERE row = 0)",
}  # fmt: skip


def sql(script: str, *, seal: bool = True) -> Callable[[bytes], bytes]:
    """What a script makes of a database; seal: whether the rows' checksums are made to fit."""

    def change(data: bytes) -> bytes:
        connection = sqlite3.connect(":memory:")
        connection.deserialize(data)
        connection.executescript(script)
        if seal:
            with contextlib.suppress(sqlite3.Error):  # no table with checksums any more, or texts that are none
                resealed(connection)
                connection.commit()
        changed = connection.serialize()
        connection.close()
        return changed

    return change


def resealed(connection: sqlite3.Connection) -> None:
    """Makes the checksums of a table's rows fit, where it has any."""
    connection.create_function("sealed", 7, row_checksum)
    connection.execute(
        "UPDATE items SET checksum = sealed(id, source, label, stamp, lower(hex(content)), preview, origin)"
    )


def row_checksum(*values: object) -> int:
    *texts, preview, origin = values
    data = "".join(f"{len(str(text))}:{text}" for text in texts)
    return zlib.crc32(f"{data}{preview} {origin}".encode("utf-8", "surrogatepass"))


def cyclic(data: bytes) -> bytes:
    """A table whose root page is its own child."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(data)
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items'")
    ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    page = struct.pack(">BHHHBI", 5, 0, 0, size, 0, root)
    return data[: size * (root - 1)] + page.ljust(size, b"\0") + data[size * root :]


def rows(script: str) -> Make:
    """Rows as a script makes them, sealed; where it names a pipe, there is one."""

    def make(target: Target) -> None:
        os.mkfifo(target.outside / "pipe")
        target.write(TABLE, sql(target.name(script))(target.read(TABLE)))

    return make


def patched(where: int, what: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:where] + what + data[where + len(what) :]


# Previews.


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, colour: int = 0, pixels: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG file that says what it is told to."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before and chunk(b"zTXt", before), chunk(b"IDAT", zlib.compress(pixels))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (28, 28), **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def jpeg(width: int, height: int) -> bytes:
    """A JPEG file that says that it is of that size."""
    data = picture("JPEG")
    where = data.index(b"\xff\xc0") + 5
    return data[:where] + struct.pack(">HH", height, width) + data[where + 4 :]


def scans(count: int) -> bytes:
    """A progressive JPEG with its last scan again and again."""
    data = picture("JPEG", size=(128, 128), progressive=True)
    where = data.rindex(b"\xff\xda")
    return data[:where] + data[where:-2] * count + data[-2:]


def several(malformed: bool) -> bytes:
    """Two JPEG files in one, as stereo cameras write them."""
    data = picture("MPO", save_all=True, append_images=[Image.new("RGB", (4000, 4000))])
    return data.replace(b"\x01\xb0", b"\x7f\xb0") if malformed else data


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n0 setgray 0 0 9 9 rectfill showpage\n%%EOF\n"
PICTURES = {
    "of 12,000 x 12,000 pixels": png(12_000, 12_000),
    "of 60,000 x 60,000 pixels": png(60_000, 60_000),
    "of 129 x 1 pixels": png(129, 1, pixels=bytes(130)),
    "of no pixels": png(0, 0),
    "whose second header says 12,000 x 12,000": png(28, 28)[:33] + png(12_000, 12_000)[8:],
    "whose header comes late": png(28, 28)[:8] + chunk(b"abCd", struct.pack(">2I", 28, 28)) + png(12_000, 12_000)[8:],
    "that is PostScript": EPS,
    "of 16 bits": png(28, 28, depth=16, pixels=bytes(28 * (1 + 2 * 28))),
    "with a text of 10 MB": png(28, 28, pixels=bytes(28 * 29), before=b"a\0\0" + zlib.compress(bytes(10**7))),
    "with a palette": picture("PNG", "P"),
    "that can be seen through": picture("PNG", "RGBA"),
    "that moves": picture("PNG", "L", save_all=True, append_images=[Image.new("L", (28, 28), 9)]),
    "whose checksums are wrong": png(28, 28, pixels=bytes(28 * 29))[:-20] + bytes(8) + chunk(b"IEND", b""),
    "that is cut short": png(28, 28)[:40],
    "with something behind it": png(28, 28, pixels=bytes(28 * 29)) + b"more",
    "that is a TIFF file": b"II*\0\x08\0\0\0\0\0",
    "that is a GIF file": picture("GIF", "L"),
    "that is a BMP file": picture("BMP"),
    "that is a WebP file": picture("WEBP"),
    "that is text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "that is a JPEG of 12,000 x 12,000 pixels": jpeg(12_000, 12_000),
    "that is a JPEG of 129 pixels": picture("JPEG", size=(129, 4)),
    "that is a JPEG of no pixels": jpeg(0, 0),
    "that is a JPEG of four colours": picture("JPEG", "CMYK"),
    "that is a JPEG of 80,000 scans": scans(80_000),
    "that is half a JPEG": picture("JPEG", size=(128, 128))[:700],
    "that is a JPEG of zeros": b"\xff\xd8\xff" + bytes(5000),
    "of 2 MB": picture("JPEG")[:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 31 + picture("JPEG")[2:],
}
HARMLESS = {
    "of 14 x 14 pixels": png(14, 14, pixels=bytes(15 * 14)),
    "in colour": png(28, 28, colour=2, pixels=bytes(28 * (1 + 3 * 28))),
    "whose pixels are 100 MB": png(28, 28, pixels=bytes(10**8)),
    "that is a JPEG with a text of 900 kB": picture("JPEG")[:2]
    + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 13
    + picture("JPEG")[2:],
    "that is two JPEG files": several(malformed=False),
    "that is said to be two JPEG files": several(malformed=True),
}
"""Pictures that may be drawn, as long as that costs no more than others."""


def preview(data: bytes) -> Make:
    """Every item's preview is that one."""

    def make(target: Target) -> None:
        before = target.read(PREVIEWS)
        target.write(PREVIEWS, before + data)
        crc = "" if target.old else f", preview = {zlib.crc32(data)}"
        place = f"UPDATE items SET start = {len(before)}, length = {len(data)}{crc}"
        target.write(TABLE, sql(place)(target.read(TABLE)))

    return make


# Arrays.


def npy(array: Any, header: str | None = None) -> bytes:
    """An array as .npy, or no array but a header."""
    file = io.BytesIO()
    np.save(file, array)
    if header is None:
        return file.getvalue()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


class Opened:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, ("unpickled", "w"))


def changed(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """What becomes of a .npy file whose array is changed."""
    return lambda data: npy(change(np.load(io.BytesIO(data))))


ARRAYS: dict[str, Callable[[bytes], bytes]] = {
    "are pickled": lambda data: npy(np.array([Opened()], object)),
    "have a huge shape": lambda data: npy(0, "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }\n"),
    "have a header nested deep": lambda data: npy(0, "(" * 5000),
    "are float64": changed(lambda lengths: lengths.astype(np.float64)),
    "are whole numbers": changed(lambda lengths: lengths.astype(np.int32)),
    "have the other byte order": changed(lambda lengths: lengths.astype(">f4")),
    "are too few": changed(lambda lengths: lengths[:20]),
    "are too many": changed(lambda lengths: np.concatenate([lengths, lengths])),
    "have two dimensions": changed(lambda lengths: np.vstack([lengths, lengths])),
    "are a column": changed(lambda lengths: lengths[:, np.newaxis]),
    "are one number": changed(lambda lengths: lengths[0]),
    "are none": changed(lambda lengths: lengths[:0]),
    "are text": changed(lambda lengths: lengths.astype(str)),
    "are not finite": changed(lambda lengths: lengths * np.nan),
    "are infinite": changed(lambda lengths: lengths * np.inf),
    "are negative": changed(lambda lengths: -lengths),
    "are garbage": lambda data: b"\x00" * 99,
    "are an .npz file": lambda data: b"PK\3\4" + data,
    "are no file": lambda data: b"",
}
"""Lengths that are none."""

# What was removed.


def removed(data: bytes, count: int) -> Make:
    """Rows are removed as a file says, and that many items are left."""

    def make(target: Target) -> None:
        target.set("catalogue/segments/0/removed", GONE)
        target.set("catalogue/count", count)
        target.write(REMOVED, data)

    return make


def rows_npy(*numbers: int) -> bytes:
    return npy(np.array(numbers, np.int64))


REMOVALS: dict[str, bytes] = {
    "beyond the last": rows_npy(3, 40), "far beyond the last": rows_npy(2**62), "before the first": rows_npy(-1, 3),
    "in another order": rows_npy(8, 3), "twice": rows_npy(3, 3), "with a jump of more than 2^63": rows_npy(-(2**63), 3),
    "as decimal numbers": npy(np.array([3.0])), "as int32": npy(np.array([3], np.int32)),
    "as unsigned": npy(np.array([3], np.uint64)), "as text": npy(np.array(["3"])), "pickled": npy(np.array([Opened()])),
    "in two dimensions": npy(np.array([[3]])), "as one number": npy(np.int64(3)), "in no file": b"",
    "in another byte order": npy(np.array([3], ">i8")), "as yes and no": npy(np.ones(40, bool)),
    "of a huge shape": npy(0, "{'descr': '<i8', 'fortran_order': False, 'shape': (100000000000,), }\n"),
    "of a negative shape": npy(0, "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }\n"),
}  # fmt: skip
"""Rows that can't have been removed."""


def vast(name: str, size: int) -> Make:
    """A file of zeros that takes no room on the disk, sealed."""

    def make(target: Target) -> None:
        if name == REMOVED:
            removed(b"", 39)(target)
        path = target.place(name)
        path.unlink()
        with path.open("wb") as file:
            file.truncate(size)
        with path.open("rb") as file:
            target.list(name, size, hashlib.file_digest(file, "sha256").hexdigest())

    return make


# Fields.


def arrow(columns: Any, *, batches: int = 1, **options: Any) -> bytes:
    """Columns by name, or a table, in an Arrow stream."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for _ in range(batches):
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def arrow_file(columns: Any) -> bytes:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def fields(data: bytes | Callable[[], bytes]) -> Make:
    """The fields of the items are in a file with those bytes."""

    def make(target: Target) -> None:
        target.set("catalogue/segments/0/fields", COLUMNS)
        target.write(FIELDS, data if isinstance(data, bytes) else data())

    return make


def ints(count: int = 40) -> Any:
    return pa.array(range(count))


def texts(count: int = 40) -> Any:
    return pa.array([f"text {number}" for number in range(count)])


def extension(name: str, storage: Any, more: bytes = b"") -> Any:
    """A column whose type an extension of Arrow is said to be."""
    told = {"ARROW:extension:name": name, "ARROW:extension:metadata": more}
    return pa.table([storage], pa.schema([pa.field("a", storage.type, metadata=told)]))


def many_columns(count: int) -> bytes:
    return arrow(pa.schema([(f"c{number}", pa.int64()) for number in range(count)]).empty_table())


def large_texts() -> bytes:
    """Texts of 1.4 GB that are compressed to a few kilobytes."""
    text = pa.array(["\0" * 700_000_000, *[""] * 39])
    return arrow({"a": text, "b": text}, compression="zstd")


def offsets(last: int) -> bytes:
    """Texts of which the last ends somewhere else."""
    return arrow({"a": pa.array(["x"] * 40)}).replace(struct.pack("<2i", 39, 40), struct.pack("<2i", 39, last))


def no_utf_8() -> bytes:
    buffers = [None, pa.py_buffer(np.arange(41, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff" * 40)]
    return arrow({"a": pa.Array.from_buffers(pa.string(), 40, buffers)})


PAIRS = pa.array([[1, 2]] * 40, pa.list_(pa.int64(), 2))
TYPES: dict[str, Any] = {
    "whole numbers": {"a": ints()}, "texts": {"a": texts()}, "decimal numbers": {"a": ints().cast(pa.float64())},
    "int32": {"a": ints().cast(pa.int32())}, "unsigned": {"a": ints().cast(pa.uint64())},
    "float32": {"a": ints().cast(pa.float32())}, "half floats": {"a": np.arange(40, dtype=np.float16)},
    "large texts": {"a": texts().cast(pa.large_string())}, "views of texts": {"a": texts().cast(pa.string_view())},
    "bytes": {"a": texts().cast(pa.binary())}, "bytes of one length": {"a": pa.array([b"abc"] * 40, pa.binary(3))},
    "yes and no": {"a": ints().cast(pa.bool_())}, "nothing": {"a": pa.nulls(40)},
    "days": {"a": ints().cast(pa.int32()).cast(pa.date32())},
    "years beyond 9999": {"a": pa.array([2**62] * 40, pa.timestamp("s"))},
    "decimals": {"a": ints().cast(pa.decimal128(38))}, "lists": {"a": pa.array([[1]] * 40)},
    "structs": {"a": pa.array([{"b": 1}] * 40)},
    "maps": {"a": pa.array([[(1, 2)]] * 40, pa.map_(pa.int64(), pa.int64()))},
    "lists 50 deep": {"a": pa.nulls(40, reduce(lambda kind, _: pa.list_(kind), range(50), pa.int64()))},
    "a dictionary": {"a": texts().dictionary_encode()},
    "a dictionary of whole numbers": {"a": ints().dictionary_encode()},
    "runs": {"a": pa.RunEndEncodedArray.from_arrays([40], ["x"])},
    "unions": {"a": pa.UnionArray.from_sparse(pa.array([0] * 40, pa.int8()), [ints()])},
    "JSON": extension("arrow.json", texts()),
    "identifiers": extension("arrow.uuid", pa.array([bytes(16)] * 40, pa.binary(16))),
    "tensors": extension("arrow.fixed_shape_tensor", PAIRS, b'{"shape":[2]}'),
    "tensors of a huge shape": extension("arrow.fixed_shape_tensor", PAIRS, b'{"shape":[99999999999,99999999999]}'),
    "bool8": extension("arrow.bool8", ints().cast(pa.int8())),
    "pickled types": extension("arrow.py_extension_type", pa.array([b""] * 40), pickle.dumps(Opened())),
}  # fmt: skip
"""Columns by their types."""

ARROWS: dict[str, bytes | Callable[[], bytes]] = {
    **{f"of {name}": arrow(TYPES[name]) for name in list(TYPES)[3:]},
    "of 20 rows": arrow({"a": ints(20)}), "of 41 rows": arrow({"a": ints(41)}), "of no rows": arrow({"a": ints(0)}),
    "of no columns": arrow(pa.table({"a": ints()}).select([])),
    "of two columns of a name": arrow(pa.table([ints(), texts()], names=["a", "a"])),
    "of 1,001 columns": arrow({f"c{number}": ints() for number in range(1001)}),
    "of 1,000,000 columns": lambda: many_columns(1_000_000),
    "of other metadata": arrow(pa.table({"a": ints()}).replace_schema_metadata({"pandas": "{}"})),
    "of 1,000 times the rows": arrow({"a": ints()}, batches=1000),
    "of texts of 1.4 GB, compressed": large_texts, "of texts that are no UTF-8": no_utf_8,
    "of texts that end beyond the file": lambda: offsets(2**31 - 1),
    "of texts that end before they begin": lambda: offsets(-5),
    "in an Arrow file": arrow_file({"a": ints()}), "in no file": b"", "in a file of zeros": bytes(5000),
    "in half a file": arrow({"a": ints()})[:400], "in the ends of a file": b"ARROW1\0\0" + b"\xff\xff\xff\x7fARROW1",
    "in a file that ends before it begins": b"ARROW1\0\0" + struct.pack("<i", -8) + b"ARROW1",
    "in a Parquet file": b"PAR1" + bytes(100) + b"PAR1",
    "compressed to 2^40 bytes": arrow({"a": pa.array([7] * 40)}, compression="zstd").replace(
        struct.pack("<q", 320), struct.pack("<q", 2**40)
    ),
    "compressed to less than nothing": arrow({"a": pa.array([7] * 40)}, compression="zstd").replace(
        struct.pack("<q", 320), struct.pack("<q", -320)
    ),
}  # fmt: skip
"""Fields that simrec doesn't write."""

TAKEN: dict[str, bytes] = {
    "of whole numbers": arrow(TYPES["whole numbers"]), "of texts": arrow(TYPES["texts"]),
    "of decimal numbers": arrow(TYPES["decimal numbers"]),
    "of nothing but gaps": arrow({"a": pa.nulls(40, pa.int64())}),
    "named with escapes": arrow({CONTROLS: ints()}), "of escapes": arrow({"a": pa.array([CONTROLS] * 40)}),
    "that are not finite": arrow({"a": pa.array([math.nan, math.inf] * 20)}),
    "without a name": arrow({"": ints()}), "of 1,000 columns": arrow({f"c{number}": ints() for number in range(1000)}),
    "of an extension nobody knows": arrow(extension("stranger.type", ints())),
    "compressed": arrow({"a": texts()}, compression="lz4"),
    "in 40 parts": arrow({"a": pa.array([1])}, batches=40),
    "of texts of 1 MB": arrow({"a": pa.array(["x" * 10**6] * 40)}),
}  # fmt: skip
"""Fields that may be answered with, as long as that costs no more than others."""

# More segments.


def second(changes: dict[str, Callable[[bytes], bytes]], count: int = 80, folder: str = MORE, **record: Any) -> Make:
    """A copy of the first segment beside it, with changed files."""

    def make(target: Target) -> None:
        first = target.name(SEGMENT)
        for name in list(target.manifest["files"]):
            if name.startswith(f"{first}/"):
                kind = name.removeprefix(f"{first}/")
                data = changes.get(kind, lambda data: data)((target.folder / name).read_bytes())
                target.write(f"{MORE}/{kind}", data)
        more = {"folder": folder, "rows": 40, "format": 5, "fields": None, "removed": None, **record}
        target.manifest["catalogue"]["segments"].append(target.name(more))
        target.set("catalogue/count", count)

    return make


def repeated(times: int) -> Make:
    """One segment, named again and again."""

    def make(target: Target) -> None:
        target.manifest["catalogue"]["segments"] *= times
        target.set("catalogue/count", 40 * times)

    return make


def other_ranges(data: bytes) -> bytes:
    """The same codes of one byte a number, which mean twice as much."""
    made = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    ranges = faiss.vector_to_array(made.sq.trained)
    faiss.copy_array_to_vector(ranges * 2, made.sq.trained)
    return faiss.serialize_index(made).tobytes()


def other_medians(data: bytes) -> bytes:
    made = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    medians = faiss.vector_to_array(made.thresholds)
    faiss.copy_array_to_vector(medians + 1, made.thresholds)
    return faiss.serialize_index(made).tobytes()


OTHERS = {TABLE: sql("UPDATE items SET id = 'x' || id")}
"""The items of a second segment have ids of their own."""


def linked(segment: str) -> Make:
    """A second segment whose folder is a link."""

    def make(target: Target) -> None:
        second(OTHERS)(target)
        path = target.place(MORE)
        moved = target.outside / "moved"
        path.rename(moved)
        path.symlink_to(moved if segment == "outside" else target.place(SEGMENT))

    return make


# Builds that were interrupted.


Change = Callable[[Path, Path], object]
"""What a stranger does to `building`; the second is a folder outside of the recommender's."""


def all_of(*changes: Change) -> Change:
    return lambda building, outside: [change(building, outside) for change in changes]


def json_of(name: str, changes: dict[str, Any]) -> Change:
    """Other values in a JSON file; ... drops one."""

    def change(data: bytes) -> bytes:
        values = {**json.loads(data), **changes}
        return json.dumps({key: value for key, value in values.items() if value is not ...}).encode()

    return bytes_of(name, change)


def record(**changes: Any) -> Change:
    """Another part.json."""
    return json_of("000001/part.json", changes)


def plan(**changes: Any) -> Change:
    """Another plan.json."""
    return json_of("plan.json", changes)


def bytes_of(name: str, make: Callable[[bytes], bytes]) -> Change:
    """Other bytes in a file."""
    return lambda building, outside: (building / name).write_bytes(make((building / name).read_bytes()))


def line(number: int, change: Callable[[Any], Any]) -> Change:
    """Another line of items.jsonl: entry, content, length and checksum of its preview."""

    def changed_lines(data: bytes) -> bytes:
        lines = data.splitlines()
        values = json.loads(lines[number])
        lines[number] = json.dumps(change(values)).encode()
        return b"\n".join(lines) + b"\n"

    return bytes_of("000001/items.jsonl", changed_lines)


def entry(**changes: Any) -> Change:
    return line(3, lambda values: [{**values[0], **changes}, *values[1:]])


def shown(data: bytes) -> Change:
    """Another preview of the last item of a part, sealed."""

    def change(building: Path, outside: Path) -> None:
        path = building / "000001" / "previews.bin"
        before = path.read_bytes()
        *_, last = (building / "000001" / "items.jsonl").read_bytes().splitlines()
        path.write_bytes(before[: len(before) - json.loads(last)[3]] + data)
        line(-1, lambda values: [*values[:3], len(data), zlib.crc32(data)])(building, outside)

    return change


def codes_f32(change: Callable[[Any], Any]) -> Change:
    return bytes_of("000001/codes.f32", lambda data: change(np.frombuffer(data, np.float32).reshape(20, -1)).tobytes())


def sparse_codes(rows: int) -> Change:
    """As many codes as take no room on the disk."""

    def change(building: Path, outside: Path) -> None:
        size = (building / "000001" / "codes.f32").stat().st_size // 20
        with (building / "000001" / "codes.f32").open("ab") as file:
            file.truncate(size * rows)
        record(rows=rows)(building, outside)

    return change


def in_place(name: str, kind: str) -> Change:
    """A link, pipe, folder or gap in place of a file or folder of a build."""

    def change(building: Path, outside: Path) -> None:
        path, moved = Path(os.path.normpath(building / name)), outside / "moved"
        path.rename(moved)
        if kind == "link":
            path.symlink_to(moved)
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "file":
            path.write_bytes(b"a file")

    return change


def beside(name: str, kind: str) -> Change:
    """Something that no build wrote."""

    def change(building: Path, outside: Path) -> None:
        (outside / "letters").mkdir()
        (outside / "letters" / "letter").write_bytes(b"a letter to someone")
        path = building / name
        if kind == "link":
            path.symlink_to(outside / "letters")
        elif kind == "link to a file":
            path.symlink_to(outside / "letters" / "letter")
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()

    return change


def raw_plan(data: bytes) -> Change:
    return bytes_of("plan.json", lambda _: data)


def raw_record(data: bytes) -> Change:
    return bytes_of("000001/part.json", lambda _: data)


JUNK = {
    "no JSON": b"{", "empty": b"", "a list": b"[1]", "null": b"null", "no UTF-8": b'{"source": "\xff"}',
    "nested 100,000 deep": b"[" * 10**5, "a number of 10,000 digits": b'{"dim": ' + b"9" * 10**4 + b"}",
    "20 MB": b'"' + b"x" * 20_000_000 + b'"', "zeros": bytes(5000),
}  # fmt: skip
BUILDS: dict[str, Change] = {
    "nothing changed": lambda building, outside: None,
    **{f"a plan that is {name}": raw_plan(data) for name, data in JUNK.items()},
    "a plan of escapes": plan(sources=[[CONTROLS, CONTROLS]]),
    "a plan of a source that is none": plan(sources={"a": [CONTROLS]}),
    "a plan of sources that are none": plan(sources=[[], [CONTROLS], 5, [["a"]]]),
    "a plan of a source of 1 MB": plan(sources=[["x" * 10**6, None]]),
    "a plan of another encoder": plan(encoder="0" * 64),
    "a plan of other numbers": plan(dim=2**63),
    "a plan of other codes": plan(dtype="binary"),
    "a plan of other pictures": plan(input={"size": 10**6}),
    "a plan that says more": plan(more=1),
    "a plan that says less": plan(dim=...),
    **{f"a record that is {name}": raw_record(data) for name, data in JUNK.items()},
    **{f"a record of {key} = {value!r:.30}": record(**{key: value}) for key, values in {
        "rows": [0, -1, 19, 21, 2**31, 2**62, 2**70, 1e308, 20.5, "20", None, True, ...],
        "entries": [0, -1, 19, 21, 40, 2**31, 2**63, 2**64, 2**70, 1e308, "20", None, ...],
        "digest": ["", "0" * 64, None, 5, CONTROLS, ...],
        "labelled": ["yes", None, False, ...],
        "previews": [-5, 0, 2**62, 2**70, "x", ...],
        "kinds": [None, [], {"a": "int64"}, {"a": "blob"}, {"a": 5}, {CONTROLS: "string"}, {"": "double"},
                  {"x" * 10**6: "string"}, {f"c{number}": "int64" for number in range(1001)},
                  {f"c{number}": "string" for number in range(100_000)}, ...],
        "skipped": [None, [[]], [["a"]], [["a", 5]], [[CONTROLS, CONTROLS]], [["a", "b"]] * 100_000, ...],
        "more": [1],
    }.items() for value in values},
    **{f"a {kind} in place of {name}": in_place(name, kind)
       for name in ("plan.json", "000001/part.json", "000001/codes.f32", "000001/items.jsonl", "000001/previews.bin")
       for kind in ("link", "FIFO", "folder", "gap")},
    **{f"a {kind} in place of {name}": in_place(name, kind)
       for name in ("000001", "000002", "../building") for kind in ("link", "FIFO", "file", "gap")},
    **{f"a {kind} called {name}": beside(name, kind)
       for name in ("000003", "more", "plan.new", "000001/part.new", "000001/more")
       for kind in ("link", "link to a file", "FIFO", "folder")},
    "codes that are cut short": bytes_of("000001/codes.f32", lambda data: data[:-4]),
    "codes that are no file": bytes_of("000001/codes.f32", lambda data: b""),
    "codes that are too many": bytes_of("000001/codes.f32", lambda data: data + data),
    "codes that are not numbers": codes_f32(lambda codes: codes * np.nan),
    "codes of which one is not a number": codes_f32(
        lambda codes: np.where(np.arange(codes.size).reshape(codes.shape) == 70, np.nan, codes)
    ),
    "codes that are infinite": codes_f32(lambda codes: np.full_like(codes, np.inf)),
    "codes of 1e38": codes_f32(lambda codes: np.full_like(codes, 1e38)),
    "codes of 0": codes_f32(lambda codes: codes * 0),
    "codes of 10^6 rows": sparse_codes(10**6),
    "codes of 10^8 rows": sparse_codes(10**8),
    "codes of 10^9 rows": sparse_codes(10**9),
    "lines that are missing": bytes_of("000001/items.jsonl", lambda data: data[: data.rindex(b"\n", 0, -1) + 1]),
    "lines that are none": bytes_of("000001/items.jsonl", lambda data: b""),
    "lines that are there twice": bytes_of("000001/items.jsonl", lambda data: data + data),
    "lines that are zeros": bytes_of("000001/items.jsonl", lambda data: bytes(10**6)),
    "lines of 40 MB": bytes_of("000001/items.jsonl", lambda data: b'"' + b"x" * 40_000_000),
    "lines that are no UTF-8": bytes_of("000001/items.jsonl", lambda data: data.replace(b"png", b"\xff")),
    "lines nested 100,000 deep": bytes_of("000001/items.jsonl", lambda data: b"[" * 10**5 + data),
    "lines without an end": bytes_of("000001/items.jsonl", lambda data: data[:-1]),
    "lines with a gap": bytes_of("000001/items.jsonl", lambda data: data.replace(b"\n", b"\n\n")),
    "an id that is there twice": line(3, lambda values: [{**values[0], "id": "Bag/00018.png"}, *values[1:]]),
    **{f"an entry of {key} = {value!r:.30}": entry(**{key: value}) for key, values in {
        "id": [5, None, "", "\0", CONTROLS, "another", "x" * 2_000_000],
        "source": [None, "", CONTROLS, "x" * 2_000_000],
        "label": [7, CONTROLS, "another", "x" * 2_000_000], "stamp": [3, "another", "x" * 2_000_000],
        "fields": [[], {"a": 1}, {"a": [1]}, {"a": {"b": 1}}, {"a": 2**70}, {CONTROLS: CONTROLS}], "more": [1],
    }.items() for value in values},
    **{f"a content of {value!r:.40}": line(3, lambda values, value=value: [*values[:2], value, *values[3:]])
       for value in ("", "zz", "abc", "0" * 32, "0" * 3_000_000, CONTROLS, None, 5, "\u0660" * 32)},
    **{f"a length of {value!r:.30}": line(3, lambda values, value=value: [*values[:3], value, values[4]])
       for value in (0, -1, 1, 2**31, 2**62, 2**70, 1e308, "9", None)},
    **{f"a checksum of {value!r:.30}": line(3, lambda values, value=value: [*values[:4], value])
       for value in (0, -1, 2**70, "9", None)},
    **{f"an origin of {value!r:.30}": line(3, lambda values, value=value: [values[0], value, *values[2:]])
       for value in (1, -1, 2**70, "0", None)},
    "a line that says more": line(3, lambda values: [*values, 1]),
    "a line that says less": line(3, lambda values: values[:4]),
    "a value where there are none, and its kind": all_of(entry(fields={"a": "text"}), record(kinds={"a": "int64"})),
    "a value beyond its kind": all_of(entry(fields={"a": 2**63}), record(kinds={"a": "int64"})),
    "previews that are cut short": bytes_of("000001/previews.bin", lambda data: data[:-4]),
    "previews that are too long": bytes_of("000001/previews.bin", lambda data: data + b"more"),
    "previews that are zeros": bytes_of("000001/previews.bin", lambda data: bytes(len(data))),
    "a preview of 0 bytes": shown(b""),
    "a preview of 2 MB": shown(bytes(2_000_000)),
    "a preview that is text": shown(b"no picture"),
    "a preview of 60,000 x 60,000 pixels": shown(png(60_000, 60_000)),
}  # fmt: skip
"""What a stranger can leave in `building`, where there were two parts of 20 items each."""


def cases() -> dict[str, Case]:
    """All kinds of hostile recommenders, by a name that says what is wrong."""
    every = {
        "a file above the folder": Case(named("{encoder}/../../../../outside/victim", "outside/victim"), ALL),
        "a file of a healthy one": Case(named("{encoder}/../../../good/CURRENT", "evil/good/CURRENT"), ALL),
        "a file far above the folder": Case(named("../../../../victim"), ALL),
        "a file by an absolute name": Case(named("{outside}/victim", "outside/victim"), ALL),
        "an absolute name below encoder": Case(named("{encoder}/{outside}/victim"), ALL),
        "a name of backslashes": Case(named("encoder\\..\\victim"), ALL),
        "a name of backslashes below encoder": Case(named("{encoder}/..\\victim"), ALL),
        "a name with a null byte": Case(value("files/encoder\0", {"size": 1, "sha256": "0" * 64}), ALL),
        "a name of escapes": Case(value(f"files/encoder{CONTROLS}", {"size": 1, "sha256": "0" * 64}), ALL),
        "a name with an end of line": Case(named("segments/0123456789abcdef/codes.faiss\n"), ALL),
        "a name that is the lock's": Case(named("LOCK"), ALL),
        "a name that is a plan's": Case(named("building/plan.json"), ALL),
        "a file of a segment above it": Case(named("{segment}/../codes.faiss"), ALL),
        "a file of a segment that it has not": Case(named("{segment}/weights.bin"), ALL),
        "fields above the folder": Case(named("fields/../../good/CURRENT", "evil/good/CURRENT"), ALL),
        "an encoder of a module's name": Case(plugin("os 1", "system", "os:system"), ENCODES),
        "an encoder of this folder's": Case(plugin("sitecustomize 1", "sitecustomize", "sitecustomize:x"), ENCODES),
        "weights behind a link": Case(plugin("simrec 0.2.0", "sparse", "simrec_sparse.model:Sparse"), ENCODES),
        "files that no manifest lists": Case(unlisted, frozenset()),
        "5,000 files": Case(many, frozenset()),
        "a graph in another format": Case(ort_format, ENCODES),
        "a graph that is garbage": Case(contents(ENCODER, lambda data: data[::-1]), ENCODES),
        "weights in the current folder": Case(external("weights.bin"), ENCODES),
        "weights by an absolute name": Case(external("{outside}/weights.bin"), ENCODES),
        "weights in the folder above": Case(external("../outside/weights.bin"), ENCODES),
        "weights of a constant in the current folder": Case(external("weights.bin", constant=True), ENCODES),
        "weights of the decoder in the current folder": Case(external("weights.bin", name=DECODER), DECODES),
        "weights in memory": Case(external("*/_ORT_MEM_ADDR_/*", offset=str(2**20)), ENCODES),
        "lists on disk": Case(on_disk, SEARCHES),
        "too few codes in the index": Case(index_of("SQ8", rows=30), SEARCHES),
        "too many codes in the index": Case(index_of("SQ8", rows=50), SEARCHES),
        "no codes in the index": Case(index_of("SQ8", rows=0), SEARCHES),
        "short codes in the index": Case(index_of("SQ8", dim=32), SEARCHES),
        "another metric in the index": Case(index_of("SQ8", faiss.METRIC_L2), SEARCHES),
        "an index that is cut short": Case(contents(INDEX, lambda data: data[: len(data) // 2]), SEARCHES),
        "an index that is no file": Case(contents(INDEX, lambda data: b""), SEARCHES),
        "an index without ranges": Case(contents(INDEX, no_ranges), SEARCHES),
        "an index of 2^60 rows": Case(contents(INDEX, sized(40, 2**60)), SEARCHES),
        "an index of 2^60 bytes": Case(contents(INDEX, sized(40 * 64, 2**60)), SEARCHES),
        "a table with a WAL header": Case(contents(TABLE, patched(18, b"\2\2")), frozenset()),
        "a table with an absurd page size": Case(contents(TABLE, patched(16, b"\0\3")), SEARCHES),
        "a table with a cycle": Case(contents(TABLE, cyclic), SEARCHES),
        "a table that is none": Case(contents(TABLE, lambda data: b"no table" * 99), SEARCHES),
        "a table that is no file": Case(contents(TABLE, lambda data: b""), SEARCHES),
        "a table with escapes": Case(
            contents(TABLE, sql("UPDATE items SET label = char(27, 93, 155, 10) || label, source = char(27) || '[2J'")),
            frozenset(),
        ),
        "labels of 1 MB": Case(contents(TABLE, sql("UPDATE items SET label = hex(zeroblob(500000))")), frozenset()),
        "labels of 3 MB": Case(contents(TABLE, sql("UPDATE items SET label = hex(zeroblob(1500000))")), SEARCHES),
        "a preset of 10 MB": Case(value("encoder/preset", "x" * 10**7), frozenset()),
        "a file of 20 GB": Case(sparse, frozenset(["build"])),
        "lengths in Fortran order": Case(contents(LENGTHS, changed(np.asfortranarray)), frozenset(), "float32"),
        "lengths that nobody lists": Case(value(f"files/{LENGTHS}", None, drop=True), STORED, "float32"),
        "lengths of zero": Case(contents(LENGTHS, changed(lambda lengths: lengths * 0)), frozenset(), "float32"),
        "lengths of 3e38": Case(contents(LENGTHS, changed(lambda some: some * 0 + 3e38)), frozenset(), "float32"),
        "lengths of 1.5 GB": Case(vast(LENGTHS, 1_500_000_000), STORED, "float32"),
        "a list of what was removed of 1.5 GB": Case(vast(REMOVED, 1_500_000_000), SEARCHES),
        "an index of 1.5 GB": Case(vast(INDEX, 1_500_000_000), SEARCHES),
        "a table of 1.5 GB": Case(vast(TABLE, 1_500_000_000), SEARCHES),
        "previews of 1.5 GB": Case(vast(PREVIEWS, 1_500_000_000), DRAWS),
        "a manifest of format 2 beside those of format 3": Case(value("version", 2), ALL),
        "a manifest of format 3 where format 2 lies": Case(in_folder(3), ALL),
        "a manifest of format 2 that is of format 3": Case(in_folder(2), ALL),
        "a generation of 12 digits": Case(numbered("000000000001"), frozenset()),
        "the last generation there can be": Case(numbered("9" * 12), frozenset()),
        "a generation of 19 digits": Case(numbered("9" * 19), ALL),
        "items of which three were removed": Case(removed(rows_npy(3, 5, 8), 37), frozenset()),
        "items of which none was removed": Case(removed(rows_npy(), 40), frozenset()),
        "items that were all removed": Case(removed(rows_npy(*range(40)), 0), frozenset()),
        "binary items that were all removed": Case(removed(rows_npy(*range(40)), 0), frozenset(), "binary"),
        "binary items of which three were removed": Case(removed(rows_npy(3, 5, 8), 37), frozenset(), "binary"),
        "a count that disagrees with what was removed": Case(removed(rows_npy(3, 5, 8), 12), SEARCHES),
        "a count that nothing was removed from": Case(removed(rows_npy(3, 5, 8), 40), SEARCHES),
        "two segments with their own items": Case(second(OTHERS), frozenset()),
        "two segments of binary codes": Case(second(OTHERS), frozenset(), "binary"),
        "two segments with the same items": Case(second({}), frozenset()),
        "two segments that share an item": Case(
            second({TABLE: sql("UPDATE items SET id = 'x' || id WHERE row > 0")}), frozenset()
        ),
        "two segments with other ranges": Case(second({**OTHERS, INDEX: other_ranges}), COMPARES),
        "two segments with other medians": Case(second({**OTHERS, INDEX: other_medians}), COMPARES, "binary"),
        "two segments, the second without ranges": Case(second({**OTHERS, INDEX: no_ranges}), COMPARES),
        "two segments of other dtypes": Case(second({**OTHERS, INDEX: index_as("Flat")}), FIELDED),
        "two segments of which one is empty": Case(second({TABLE: sql("DELETE FROM items")}), frozenset(["export"])),
        "two segments in one folder": Case(second(OTHERS, folder=SEGMENT), frozenset()),
        "two segments in one folder, of other rows": Case(second(OTHERS, 79, SEGMENT, rows=39), COMPARES),
        "two segments, a count of one": Case(second(OTHERS, 40), SEARCHES),
        "two segments, a count of three": Case(second(OTHERS, 120), SEARCHES),
        "two segments, the second above the folder": Case(second(OTHERS, folder="../good"), ALL),
        "two segments, the second by an absolute name": Case(second(OTHERS, folder="/etc"), ALL),
        "two segments, the second with the first's fields": Case(
            both(fields(TAKEN["of texts"]), second(OTHERS, fields=COLUMNS)), frozenset()
        ),
        "two segments, the second with too long fields": Case(
            both(second(OTHERS, fields=COLUMNS), fields(ARROWS["of 41 rows"])), FIELDED
        ),
        "two segments, the second of format 2": Case(second(OTHERS, format=2), SEARCHES),
        "a segment that is a link": Case(linked("outside"), frozenset(["export"])),
        "a segment that is a link to another": Case(linked("inside"), frozenset(["export"])),
        "1,000 segments in one folder": Case(repeated(1000), frozenset()),
        "1,001 segments": Case(repeated(1001), ALL),
        **{name: Case(raw(change), ALL) for name, change in MANIFESTS.items()},
        **{f"a CURRENT that is {name}": Case(current(data), ALL) for name, data in CURRENTS.items()},
        **{f"a graph that {name}": Case(graph(text), ENCODES) for name, text in GRAPHS.items()},
        **{f"an index of the kind {kind}": Case(index_of(kind), SEARCHES)
           for kind in ("IVF1,Flat", "HNSW8,Flat", "IDMap,SQ8", "RR64,SQ8", "SQ8,RFlat", "Flat", "SQ4", "SQfp16")},
        **{f"a table that {name}": Case(contents(TABLE, sql(script, seal="generated" not in name)), SEARCHES)
           for name, script in TABLES.items()},
        **{f"a row with {name}": Case(contents(TABLE, sql(script, seal=False)), SEARCHES - {"export"})
           for name, script in UNSEALED.items()},
        **{name: Case(rows(script), hit) for name, (script, hit) in ROWS.items()},
        **{f"a preview that {name}": Case(contents(TABLE, sql(f"UPDATE items SET {new}")), DRAWS)
           for name, new in PLACES.items()},
        **{f"a preview {name}": Case(preview(data), DRAWS) for name, data in PICTURES.items()},
        **{f"a preview {name}": Case(preview(data), frozenset()) for name, data in HARMLESS.items()},
        **{f"lengths that {name}": Case(contents(LENGTHS, change), STORED, "float32")
           for name, change in ARRAYS.items()},
        **{f"rows removed {name}": Case(removed(data, 39), SEARCHES) for name, data in REMOVALS.items()},
        **{f"fields {name}": Case(fields(data), FIELDED) for name, data in ARROWS.items()},
        **{f"fields {name}": Case(fields(data), frozenset()) for name, data in TAKEN.items()},
    }  # fmt: skip
    for place, values in VALUES.items():
        every |= {f"{place} = {new!r:.100}": Case(value(place, new), ALL) for new in values}
    for place, values in LATER.items():
        hit = FIELDED if place.endswith("fields") else SEARCHES
        every |= {f"{place} = {new!r:.100}": Case(value(place, new), hit) for new in values}
    for place in SPOKEN:
        every[f"escapes in {place}"] = Case(value(place, CONTROLS), frozenset())
        every[f"a surrogate in {place}"] = Case(value(place, "\ud800"), frozenset())
    for place in ("encoder", "encoder/dim", "encoder/folder", "encoder/input/size", "encoder/input/version",
                  "catalogue", "catalogue/dtype", "catalogue/segments", "catalogue/segments/0/rows",
                  "catalogue/segments/0/folder", "created", "files"):  # fmt: skip
        every[f"no {place}"] = Case(value(place, None, drop=True), ALL)
    for place, hit in USES.items():
        dtype, whole = "float32" if place == LENGTHS else "int8", "." not in place and place not in ALONE
        before = BEFORE_USE.get(place, lambda target: None)
        every[f"a link in place of {place}"] = Case(both(before, link(place)), hit, dtype)
        for what, make in () if whole else (("FIFO", fifo), ("folder", folder_at), ("gap", gone)):
            every[f"a {what} in place of {place}"] = Case(both(before, make(place)), hit, dtype)
    return every | {f"{OLD}: {name}": Case(case.make, case.hit, OLD) for name, case in old_cases().items()}


ALONE = {MANIFEST, "CURRENT", FIELDS, REMOVED}
"""Places that are files, though their names don't show it."""

BEFORE_USE = {
    **dict.fromkeys((FIELDS, "fields"), fields(TAKEN["of texts"])),
    **dict.fromkeys((REMOVED, "removed"), removed(rows_npy(3, 5, 8), 37)),
}
"""What makes a recommender have such a file."""


def index_as(kind: str) -> Callable[[bytes], bytes]:
    """The same codes in another index."""

    def change(data: bytes) -> bytes:
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        made = faiss.index_factory(index.d, kind, index.metric_type)
        made.add(index.reconstruct_n(0, index.ntotal))
        return faiss.serialize_index(made).tobytes()

    return change


def old_cases() -> dict[str, Case]:
    """A handful of the same in a recommender of format 2."""
    thumbnails = "UPDATE items SET segment ="
    return {
        "nothing wrong": Case(lambda target: None, frozenset()),
        "a file above the folder": Case(named("encoder/../../../../outside/victim", "outside/victim"), ALL),
        "a file by an absolute name": Case(named("{outside}/victim", "outside/victim"), ALL),
        "a file of format 3": Case(named("segments/0123456789abcdef/codes.faiss"), ALL),
        "a manifest of format 3": Case(value("version", 3), ALL),
        "no version": Case(value("version", None, drop=True), ALL),
        "another folder": Case(value("encoder/folder", "../good"), frozenset()),
        "a manifest nested 100,000 deep": Case(raw(MANIFESTS["a manifest nested 100,000 deep"]), ALL),
        "a manifest that is no JSON": Case(raw(MANIFESTS["a manifest that is no JSON"]), ALL),
        **{f"{place} = {new!r}": Case(value(place, new), ALL) for place, new in (
            ("catalogue/segments", ["../../CURRENT"]), ("catalogue/segments", [5]), ("catalogue/segments", {}),
            ("catalogue/segments", [{"folder": "segments/0123456789abcdef"}]), ("catalogue/count", -1),
            ("catalogue/segments", ["index.faiss", "/etc/hostname"]), ("encoder/input", [28]), ("files", []),
            ("files", None), ("catalogue", "none"), ("encoder", 5), ("files", {"../x": 5}),
        )},
        "more items than there are": Case(value("catalogue/count", 41), SEARCHES),
        "no items": Case(value("catalogue/count", 0), frozenset()),
        "a link in place of the index": Case(link(INDEX), SEARCHES),
        "a link in place of the encoder": Case(link(ENCODERS), ENCODES),
        "a link in place of gens": Case(link("gens"), ALL),
        "a link in place of its generation": Case(link(SEGMENT), ALL),
        "a link in place of the manifest": Case(link(MANIFEST), ALL),
        "a FIFO in place of the table": Case(fifo(TABLE), SEARCHES),
        "a FIFO in place of the manifest": Case(fifo(MANIFEST), ALL),
        "a folder in place of the thumbnails": Case(folder_at(PREVIEWS), DRAWS),
        "a gap in place of the index": Case(gone(INDEX), SEARCHES),
        "weights in the current folder": Case(external("weights.bin"), ENCODES),
        "a graph that loops": Case(graph(GRAPHS["loops"]), ENCODES),
        "lists on disk": Case(on_disk, SEARCHES),
        "an index of 2^60 rows": Case(contents(INDEX, sized(40, 2**60)), SEARCHES),
        "a table that is a view": Case(contents(TABLE, sql(TABLES["is a view"])), SEARCHES),
        "a table with another column": Case(contents(TABLE, sql(TABLES["has another column"])), SEARCHES),
        "a table of format 3": Case(contents(TABLE, sql(
            "DROP TABLE items; CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)"
        )), SEARCHES),
        "rows of negative numbers": Case(rows(ROWS["rows of negative numbers"][0]), SEARCHES),
        "a thumbnail in another file": Case(contents(TABLE, sql(f"{thumbnails} '../../CURRENT'")), frozenset()),
        "a thumbnail in the index": Case(contents(TABLE, sql(f"{thumbnails} 'index.faiss'")), frozenset()),
        "a thumbnail beyond its file": Case(contents(TABLE, sql(f"UPDATE items SET start = {2**62}")), DRAWS),
        "a thumbnail of 12,000 x 12,000 pixels": Case(preview(PICTURES["of 12,000 x 12,000 pixels"]), DRAWS),
        "a thumbnail that is a WebP file": Case(preview(PICTURES["that is a WebP file"]), DRAWS),
        "a thumbnail of 128 x 128 pixels": Case(preview(picture("JPEG", size=(128, 128))), DRAWS),
    }  # fmt: skip


# Mutants: changes at random, of which some change nothing that matters.


def mutant(name: str, target: Target) -> None:
    """Changes one file at random."""
    random = target.random
    if name == MANIFEST:
        _mutate_values(target)
        return
    if name == FIELDS:
        fields(arrow(TYPES["whole numbers"]))(target)
    if name == REMOVED:
        removed(npy(np.array([3, 5, 8])), 37)(target)
    data = target.read(name)
    structural = random.random() < 0.6
    if structural and name.endswith(".npz"):
        with np.load(io.BytesIO(data)) as opened:
            arrays = dict(opened)
        key = random.choice(sorted(arrays))
        arrays[random.choice([key, key, key, "more"])] = _odd(arrays[key], random)
        if random.random() < 0.1:
            del arrays[key]
        file = io.BytesIO()
        np.savez(file, **arrays)
        data = file.getvalue()
    elif structural and name.endswith(".npy"):
        data = npy(_odd(np.load(io.BytesIO(data)), random))
    elif structural and name == TABLE:
        column = random.choice(
            ["row", "id", "origin", "source", "label", "stamp", "content", "start", "length", "preview", "checksum"]
        )
        value = random.choice(["-1", str(2**62), "x'ff'", "''", "1.5", "'a' || row", "CAST(x'ff' AS TEXT)", "-row"])
        script = f"UPDATE OR IGNORE items SET {column} = {value} WHERE row % {random.randint(1, 3)} = 0"
        change = sql(script, seal=random.random() < 0.7)
        try:
            data = change(data)
        except sqlite3.IntegrityError:  # a row is an integer
            data = damaged(data, random)
    elif structural and name == INDEX:
        size = random.choice([0, 1, 2**31, 2**40, 2**63, 41, 2**64 - 1])
        data = patched(random.randrange(0, 48), struct.pack("<Q", size))(data)[: len(data)]
    else:
        data = damaged(data, random)
    target.write(name, data)


def damaged(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut off, or put between others."""
    where = random.randrange(len(data))
    changed = bytearray(data)
    match random.choice(["flip", "flip", "cut", "zeros", "twice"]):
        case "flip":
            for _ in range(random.randint(1, 20)):
                changed[random.randrange(len(data))] = random.randrange(256)
        case "cut":
            del changed[where:]
        case "zeros":
            changed[where:where] = bytes(random.randint(1, 64))
        case _:
            changed[where:where] = data[where : where + random.randint(1, 64)]
    return bytes(changed)


def _odd(array: Any, random: Random) -> Any:
    """An array of another shape, another dtype, or of other numbers."""
    number = random.choice([math.nan, math.inf, -1.0, 0.0, 1e30])
    with np.errstate(all="ignore"):
        return random.choice([
            lambda: array[:-1], lambda: array[..., np.newaxis], lambda: array[:0], lambda: array.ravel()[0],
            lambda: array.astype(np.float64), lambda: array.astype(np.int8), lambda: array.astype(str),
            lambda: array.astype(complex), lambda: array.astype(">f4"), lambda: np.asfortranarray(array),
            lambda: np.where(np.arange(array.size).reshape(array.shape) % 7, array, number),
            lambda: np.full_like(array, 0), lambda: np.vstack([array, array]), lambda: (array * number),
        ])()  # fmt: skip


def _mutate_values(target: Target) -> None:
    """Drops, doubles or replaces a value of the manifest, wherever it is."""
    random, values = target.random, target.manifest
    key = random.choice(list(values))
    while isinstance(values[key], dict | list) and values[key] and random.random() < 0.8:
        values = values[key]
        key = random.choice(list(values) if isinstance(values, dict) else range(len(values)))
    match random.choice(["drop", "double", *["replace"] * 6]):
        case "drop":
            del values[key]
        case "double" if isinstance(values, dict):
            values[f"{key}2"] = values[key]
        case "double":
            values.append(values[key])
        case _:
            values[key] = random.choice([None, -1, 2**63, 1e308, "", "..", [], {}, True, "x" * 100_000])
    target.seal()


def container(valid: bytes, random: Random) -> bytes:
    """A container of codes with up to three fields changed, its checksum found right."""
    header = struct.Struct("<8sHHI3II32s")
    _, version, bits, dim, *shape, count, digest = header.unpack_from(valid)
    words = bytearray(valid[header.size : -32])
    for _ in range(random.choice([1, 1, 2, 3])):
        match random.choice(["count", "count", "bits", "words", "words", "words", "dim", "shape", "version", "none"]):
            case "count":
                count = random.choice([0, 1, max(count, 1) - 1, count // 2 + 2, 1000, 10**5, 10**7, 10**8, 2**32 - 1])
            case "bits":
                bits = random.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 255, 65_535])
            case "words":
                size = random.randint(0, len(words))
                words = random.choice([
                    words[:size], words + random.randbytes(4 * random.randint(1, 9)), words + b"\1\2\3"[: size % 4],
                    bytearray(random.randbytes(size)), bytearray(random.randbytes(28)), bytearray(4 * (size // 4)),
                    bytearray(b"\xff" * size), bytearray(damaged(bytes(words) or b"\0", random)),
                ])  # fmt: skip
            case "dim":
                dim = random.choice([0, 1, 63, 65, 2**20, 2**32 - 1])
            case "shape":
                shape[random.randrange(3)] = random.choice([0, 1, 29, 2**16, 2**32 - 1])
            case "version":
                version = random.choice([0, 2, 65_535])
            case _:
                digest = random.choice([digest, digest, random.randbytes(32)])
    content = header.pack(b"\x89simrec\n", version, bits, dim, *shape, count, digest) + words
    return content + hashlib.sha256(content).digest()

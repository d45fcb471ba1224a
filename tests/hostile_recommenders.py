"""Recommenders and containers as a stranger could make them, out of healthy ones.

Whatever is changed is sealed: the digests are made to fit, so that only a check of the contents can notice.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import faiss
import numpy as np
import onnx
import onnx.parser
import onnxruntime

ENCODER, DECODER, TABLE, INDEX = "encoder/encoder.onnx", "encoder/decoder.onnx", "items.sqlite", "index.faiss"
THUMBNAILS, CODES = "thumbnails-000001.bin", "codes.npy"
PRIOR, CODE_MODEL = "encoder/prior.npz", "encoder/code_model.npz"

ALL = frozenset(["similar", "list", "show", "build", "export", "grid", "reconstruct"])
ENCODES, SEARCHES = ALL - {"list", "show", "export"}, frozenset(["similar", "export", "grid"])
DRAWS, DECODES = frozenset(["grid"]), frozenset(["reconstruct"])
USES = {
    ENCODER: ENCODES, DECODER: DECODES | {"build"}, TABLE: SEARCHES, INDEX: SEARCHES, THUMBNAILS: DRAWS,
    CODES: frozenset(["export"]), "encoder": ENCODES, "manifest.json": ALL, "generation": ALL, "gens": ALL,
    "CURRENT": ALL - {"list"},
}  # fmt: skip
"""The commands that need a file or folder; without its CURRENT a folder is no recommender that could be listed."""


class Target:
    """A copy of a healthy recommender in `root`/home, to be changed in place.

    outside, here: folders in `root` that nothing may change; commands run in the second.
    """

    def __init__(self, folder: Path, root: Path, random: Random) -> None:
        self.folder, self.random = folder, random
        self.outside, self.here = root / "outside", root / "here"
        self.live = folder / "gens" / (folder / "CURRENT").read_text().split()[0]
        self.manifest: Any = json.loads((self.live / "manifest.json").read_bytes())

    def place(self, name: str) -> Path:
        """Where a file or folder lies."""
        own = {"CURRENT": self.folder / "CURRENT", "gens": self.folder / "gens", "generation": self.live}
        return own.get(name, self.live / name)

    def write(self, name: str, data: bytes, path: Path | None = None) -> None:
        """Replaces a file, in place of which there may be a link to a healthy one, and its digest."""
        path = path or self.live / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        self.manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.seal()

    def set(self, place: str, value: object, *, drop: bool = False) -> None:
        """Changes a value of the manifest, e.g. "encoder.dim", or drops it."""
        *path, last = place.split("/")
        values = self.manifest
        for key in path:
            values = values[key]
        values[last] = value
        if drop:
            del values[last]
        self.seal()

    def seal(self, manifest: bytes | None = None) -> None:
        """Writes manifest.json and the digest of it."""
        data = json.dumps(self.manifest).encode() if manifest is None else manifest
        for path, content in (
            (self.live / "manifest.json", data),
            (self.folder / "CURRENT", f"{self.live.name} {hashlib.sha256(data).hexdigest()}\n".encode()),
        ):
            path.unlink()
            path.write_bytes(content)


Make = Callable[[Target], object]


@dataclass(frozen=True)
class Case:
    """make: changes a copy of a healthy one. hit: the commands that must fail, others may. dtype: of its codes."""

    make: Make
    hit: frozenset[str]
    dtype: str = "int8"


# Manifests.


def named(name: str, source: str | None = None) -> Make:
    """Lists a file under a name that leads elsewhere; source: where, from the home, it is to be read."""

    def make(target: Target) -> None:
        path = target.folder.parent / source if source else None
        target.write(name.format(outside=target.outside), b"of a stranger", path)

    return make


def value(place: str, new: object, *, drop: bool = False) -> Make:
    return lambda target: target.set(place, new, drop=drop)


def raw(change: Callable[[bytes], bytes]) -> Make:
    return lambda target: target.seal(change(json.dumps(target.manifest).encode()))


VALUES: dict[str, list[object]] = {
    "encoder/dim": ["64", None, 0, -1, 2**63, 1e308, float("nan"), [64], True],
    "encoder/input": [{}, {"size": 0}, {"size": 10**6, "channels": 1, "recipe": "photo"}, [28, 1, "fashion"]],
    "encoder/input/channels": [0, 2, "1"],
    "encoder/input/recipe": ["raw", None],
    "encoder/metric": ["dot", None],
    "encoder/runtime": ["shell", None],
    "encoder/decodes": ["yes", 1],
    "encoder/digest": ["../../outside", "", 7],
    "encoder/trained_on": [None, {}, [], {"source": 5}],
    "encoder/settings": [None, []],
    "encoder/new": [1],
    "catalogue": [[], True, "none", {}],
    "catalogue/count": ["40", -1, 2**63, 40.5, None],
    "catalogue/dtype": ["float16", None],
    "catalogue/labelled": ["yes"],
    "catalogue/segments": ["thumbnails-000001.bin", [5], ["../../CURRENT"], ["index.faiss", "/etc/hostname"], {}],
    "created": [5, None],
    "libraries": [[], {"numpy": {}}],
    "files": [[], None, {"index.faiss": 5}, {"index.faiss": {"size": "1"}}],
    "files/index.faiss": [{"size": -1, "sha256": "0"}, {"size": 2**70, "sha256": None}, None],
    "version": [None, "2", 0, -3, 2.5],
}
"""What none of the manifest's values may be."""

CONTROLS = "\x1b]0;owned\x07\x1b[31m\n\x9b2J\r"
SPOKEN = ["encoder/name", "encoder/preset", "encoder/command", "encoder/provider", "catalogue/source", "created"]
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
    "an absolute path": b"/etc " + b"0" * 64, "escapes": b"\x1b[31m000001-00000000 " + b"0" * 64,
    "a digest that is none": b"000001-00000000 \x1b[31m",
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
    path = target.live / "encoder" / "more.bin"
    with path.open("wb") as file:
        file.truncate(20 * 10**9)
    target.manifest["files"]["encoder/more.bin"] = {"size": 20 * 10**9, "sha256": "0" * 64}
    target.seal()


def unlisted(target: Target) -> None:
    """Files and links in the encoder's folder that no manifest lists."""
    (target.outside / "weights").write_bytes(b"weights")
    (target.live / "encoder" / "weights.safetensors").symlink_to(target.outside / "weights")
    (target.live / "encoder" / "sitecustomize.py").write_text("raise SystemExit('run')")


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
        model = onnx.load_from_string((target.live / name).read_bytes())
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
    onnxruntime.InferenceSession((target.live / ENCODER).read_bytes(), options, providers=["CPUExecutionProvider"])
    target.write(ENCODER, (target.outside / "graph.ort").read_bytes())


def contents(name: str, change: Callable[[bytes], bytes]) -> Make:
    return lambda target: target.write(name, change((target.live / name).read_bytes()))


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
    index = faiss.deserialize_index(np.frombuffer((target.live / INDEX).read_bytes(), np.uint8))
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

REST = "label, pixels, segment, start, length"
ENDLESS = "WITH RECURSIVE n(row) AS (SELECT 0 UNION ALL SELECT row + 1 FROM n)"
TABLES = {
    "is a recursive view": f"ALTER TABLE items RENAME TO mine; CREATE VIEW items AS {ENDLESS} SELECT row, 'a' AS id,"
    f" 'a' AS source, 'a' AS label, x'00' AS pixels, 'a' AS segment, 0 AS start, 9 AS length FROM n",
    "is a view": "ALTER TABLE items RENAME TO mine; CREATE VIEW items AS SELECT * FROM mine",
    "has a recursive view": f"CREATE VIEW more AS {ENDLESS} SELECT * FROM n",
    "has a trigger": "CREATE TRIGGER t AFTER DELETE ON items BEGIN SELECT 1; END",
    "has another table beside it": "CREATE TABLE more (x)",
    "has another column": "ALTER TABLE items ADD COLUMN more TEXT",
    "has a generated column": "CREATE TABLE mine (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT"
    f" NULL, label TEXT AS (hex(zeroblob(200000000))), {REST.removeprefix('label, ')});"
    " INSERT INTO mine SELECT row, id, source, pixels, segment, start, length FROM items;"
    " DROP TABLE items; ALTER TABLE mine RENAME TO items",
    "has an index on an expression": "CREATE INDEX more ON items (hex(zeroblob(length(id))))",
    "has ids that are blobs": "UPDATE items SET id = CAST(id AS BLOB)",
    "has ids that are no UTF-8": "UPDATE items SET id = CAST(x'ff' AS TEXT) || row",
    "has labels that are missing": f"CREATE TABLE mine AS SELECT row, id, source, NULL AS {REST} FROM items;"
    " DROP TABLE items; ALTER TABLE mine RENAME TO items",
    "has labels that are missing, against its own rules": "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql ="
    " replace(sql, 'label TEXT NOT NULL', 'label TEXT') WHERE name = 'items'; PRAGMA writable_schema = RESET;"
    " UPDATE items SET label = NULL; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql ="
    " replace(sql, 'label TEXT', 'label TEXT NOT NULL') WHERE name = 'items'",
    "has gaps": "UPDATE items SET row = row + 1000 WHERE row >= 20",
    "has too few rows": "DELETE FROM items WHERE row >= 20",
    "has no rows": "DELETE FROM items",
    "has too many rows": f"INSERT INTO items SELECT row + 40, 'x' || id, source, {REST} FROM items",
}
PLACES = {
    "starts before its file": "start = -1", "starts beyond its file": f"start = {2**62}", "starts nowhere": "start='x'",
    "ends beyond its file": f"length = {2**62}", "has a negative length": "length = -5", "has no length": "length = 0",
    "lies in another file": "segment = '../../CURRENT'", "lies in the index": "segment = 'index.faiss'",
}  # fmt: skip


def sql(script: str) -> Callable[[bytes], bytes]:
    """What a script makes of a database."""

    def change(data: bytes) -> bytes:
        connection = sqlite3.connect(":memory:")
        connection.deserialize(data)
        connection.executescript(script)
        changed = connection.serialize()
        connection.close()
        return changed

    return change


def cyclic(data: bytes) -> bytes:
    """A table whose root page is its own child."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(data)
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items'")
    ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()
    page = struct.pack(">BHHHBI", 5, 0, 0, size, 0, root)
    return data[: size * (root - 1)] + page.ljust(size, b"\0") + data[size * root :]


def patched(where: int, what: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:where] + what + data[where + len(what) :]


# Thumbnails.


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, colour: int = 0, pixels: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG file that says what it is told to."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before and chunk(b"zTXt", before), chunk(b"IDAT", zlib.compress(pixels))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n0 setgray 0 0 9 9 rectfill showpage\n%%EOF\n"
PICTURES = {
    "of 12,000 x 12,000 pixels": png(12_000, 12_000),
    "of 60,000 x 60,000 pixels": png(60_000, 60_000),
    "whose second header says 12,000 x 12,000": png(28, 28)[:33] + png(12_000, 12_000)[8:],
    "whose header comes late": png(28, 28)[:8] + chunk(b"abCd", struct.pack(">2I", 28, 28)) + png(12_000, 12_000)[8:],
    "that is PostScript": EPS,
    "of 14 x 14 pixels": png(14, 14, pixels=bytes(15 * 14)),
    "in colour": png(28, 28, colour=2, pixels=bytes(28 * (1 + 3 * 28))),
    "of 16 bits": png(28, 28, depth=16, pixels=bytes(28 * (1 + 2 * 28))),
    "with a text of 10 MB": png(28, 28, pixels=bytes(28 * 29), before=b"a\0\0" + zlib.compress(bytes(10**7))),
    "that is cut short": png(28, 28)[:40],
    "that is a TIFF file": b"II*\0\x08\0\0\0\0\0",
}


def thumbnail(data: bytes) -> Make:
    """Every item's thumbnail is that one."""

    def make(target: Target) -> None:
        before = (target.live / THUMBNAILS).read_bytes()
        target.write(THUMBNAILS, before + data)
        place = f"UPDATE items SET start = {len(before)}, length = {len(data)}"
        target.write(TABLE, sql(place)((target.live / TABLE).read_bytes()))

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


def changed_codes(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    return lambda data: npy(change(np.load(io.BytesIO(data))))


ARRAYS: dict[str, Callable[[bytes], bytes]] = {
    "are pickled": lambda data: npy(np.array([Opened()], object)),
    "have a huge shape": lambda data: npy(
        0, "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000, 64), }\n"
    ),
    "have a header nested deep": lambda data: npy(0, "(" * 5000),
    "are float64": changed_codes(lambda codes: codes.astype(np.float64)),
    "are too few": changed_codes(lambda codes: codes[:20]),
    "are too short": changed_codes(lambda codes: codes[:, :32]),
    "are one number": changed_codes(lambda codes: codes[0, 0]),
    "are text": changed_codes(lambda codes: codes.astype(str)),
    "are not finite": changed_codes(lambda codes: codes * np.nan),
    "are garbage": lambda data: b"\x00" * 99,
}


def cases() -> dict[str, Case]:
    """All kinds of hostile recommenders, by a name that says what is wrong."""
    every = {
        "a file above the folder": Case(named("encoder/../../../../outside/victim", "outside/victim"), ALL),
        "a file of a healthy one": Case(named("encoder/../../../good/CURRENT", "evil/good/CURRENT"), ALL),
        "a file far above the folder": Case(named("../../../../victim"), ALL),
        "a file by an absolute name": Case(named("{outside}/victim"), ALL),
        "an absolute name below encoder": Case(named("encoder/{outside}/victim"), ALL),
        "a name of backslashes": Case(named("encoder\\..\\victim"), ALL),
        "a name with a null byte": Case(value("files/encoder\0", {"size": 1, "sha256": "0" * 64}), ALL),
        "a name of escapes": Case(value(f"files/encoder{CONTROLS}", {"size": 1, "sha256": "0" * 64}), ALL),
        "an encoder of a module's name": Case(plugin("os 1", "system", "os:system"), ENCODES),
        "an encoder of this folder's": Case(plugin("sitecustomize 1", "sitecustomize", "sitecustomize:x"), ENCODES),
        "weights behind a link": Case(plugin("simrec 0.1.0", "sparse", "simrec_sparse.model:Sparse"), ENCODES),
        "files that no manifest lists": Case(unlisted, frozenset()),
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
        "an index without ranges": Case(contents(INDEX, no_ranges), SEARCHES),
        "an index of 2^60 rows": Case(contents(INDEX, sized(40, 2**60)), SEARCHES),
        "an index of 2^60 bytes": Case(contents(INDEX, sized(40 * 64, 2**60)), SEARCHES),
        "a table with a WAL header": Case(contents(TABLE, patched(18, b"\2\2")), frozenset()),
        "a table with an absurd page size": Case(contents(TABLE, patched(16, b"\0\3")), SEARCHES),
        "a table with a cycle": Case(contents(TABLE, cyclic), SEARCHES),
        "a table that is none": Case(contents(TABLE, lambda data: b"no table" * 99), SEARCHES),
        "a table with escapes": Case(
            contents(TABLE, sql("UPDATE items SET label = char(27, 93, 155, 10) || label, source = char(27) || '[2J'")),
            frozenset(),
        ),
        "labels of 1 MB": Case(contents(TABLE, sql("UPDATE items SET label = hex(zeroblob(500000))")), frozenset()),
        "a preset of 10 MB": Case(value("encoder/preset", "x" * 10**7), frozenset()),
        "a file of 20 GB": Case(sparse, frozenset(["build"])),
        "codes in Fortran order": Case(contents(CODES, changed_codes(np.asfortranarray)), frozenset(), "float32"),
        **{name: Case(raw(change), ALL) for name, change in MANIFESTS.items()},
        **{f"a CURRENT that is {name}": Case(current(data), ALL) for name, data in CURRENTS.items()},
        **{f"a graph that {name}": Case(graph(text), ENCODES) for name, text in GRAPHS.items()},
        **{f"an index of the kind {kind}": Case(index_of(kind), SEARCHES)
           for kind in ("IVF1,Flat", "HNSW8,Flat", "IDMap,SQ8", "RR64,SQ8", "SQ8,RFlat", "Flat", "SQ4", "SQfp16")},
        **{f"a table that {name}": Case(contents(TABLE, sql(script)), SEARCHES) for name, script in TABLES.items()},
        **{f"a thumbnail that {name}": Case(contents(TABLE, sql(f"UPDATE items SET {new}")), DRAWS)
           for name, new in PLACES.items()},
        **{f"a thumbnail {name}": Case(thumbnail(data), DRAWS) for name, data in PICTURES.items()},
        **{f"codes that {name}": Case(contents(CODES, change), USES[CODES], "float32")
           for name, change in ARRAYS.items()},
    }  # fmt: skip
    for place, values in VALUES.items():
        every |= {f"{place} = {new!r}": Case(value(place, new), ALL) for new in values}
    for place in SPOKEN:
        every[f"escapes in {place}"] = Case(value(place, CONTROLS), frozenset())
        every[f"a surrogate in {place}"] = Case(value(place, "\ud800"), frozenset())
    for place in ("encoder", "encoder/dim", "encoder/input/size", "catalogue", "catalogue/dtype", "created", "files"):
        every[f"no {place}"] = Case(value(place, None, drop=True), ALL)
    for place, hit in USES.items():
        dtype, whole = "float32" if place == CODES else "int8", place in ("encoder", "gens", "generation")
        every[f"a link in place of {place}"] = Case(link(place), hit, dtype)
        for what, make in () if whole else (("FIFO", fifo), ("folder", folder_at), ("gap", gone)):
            every[f"a {what} in place of {place}"] = Case(make(place), hit, dtype)
    return every


# Mutants: changes at random, of which some change nothing that matters.


def mutant(name: str, target: Target) -> None:
    """Changes one file at random."""
    random = target.random
    if name == "manifest.json":
        _mutate_values(target)
        return
    data = (target.live / name).read_bytes()
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
        column = random.choice(["row", "id", "source", "label", "pixels", "segment", "start", "length"])
        value = random.choice(["-1", str(2**62), "x'ff'", "''", "1.5", "'a' || row", "CAST(x'ff' AS TEXT)", "-row"])
        change = sql(f"UPDATE OR IGNORE items SET {column} = {value} WHERE row % {random.randint(1, 3)} = 0")
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

"""Plugins are installed as real distributions; a broken one is named with its version and doesn't harm the others."""

from __future__ import annotations

import base64
import doctest
import hashlib
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import simrec as api
from simrec import hookspecs, host, settings
from simrec.catalogue import remote
from simrec.cli import cli, main
from simrec.contracts import EncoderSpec, ImageSpec, Row, SourceSpec, Table
from simrec.errors import MOVED, PluginError, RequestError, StoreError, reason
from simrec.verbs.train import Plan

HEAD = """
from dataclasses import dataclass, replace
from pathlib import Path
import numpy as np
from simrec.contracts import Batch, EncoderSpec, Entry, Epoch, ExporterSpec, History, ImageSpec, SourceSpec
from simrec.contracts import content, setting
from simrec.errors import DataError, ImageError
from simrec.hookspecs import hookimpl
"""

PIXELS = (
    HEAD
    + '''
@dataclass(frozen=True)
class Settings:
    brightness: float = setting(1.0, "what every pixel is multiplied by")

class Pixels:
    """An encoder of numpy alone, which does what it should."""

    Settings, input, dim = Settings, ImageSpec(), 784
    presets = {"default": Settings(), "darker": Settings(0.5)}

    def __init__(self, settings):
        self.settings = settings

    def fit(self, images, *, validation, seed, device, progress, stop):
        return History((Epoch(1, 0.0, 0.0, {}, 0.0),), 1, "finished")

    def encode(self, images):
        with np.errstate(over="ignore"):
            return images.reshape(len(images), self.dim).astype(np.float32) * np.float32(self.settings.brightness)

    def save(self, folder):
        (folder / "brightness.txt").write_text(str(self.settings.brightness))

    @classmethod
    def load(cls, folder):
        return cls(Settings(float((Path(folder) / "brightness.txt").read_text())))
'''
)

GOOD = (
    PIXELS
    + """
class Squares:
    reduced = False

    def __init__(self, text, *, data_dir, notice):
        if text not in ("", "few"):
            raise DataError(f"our-shop has no {text!r}: name our-shop or our-shop:few")
        self.text, self.name = text, "our-shop:few" if text else "our-shop"
        self.test = None if text else "our-shop:few"
        self.images = np.random.default_rng(0).integers(0, 256, (12 if text else 40, 28, 28, 1), dtype=np.uint8)

    def entries(self):
        for row in range(len(self.images)):
            yield Entry(f"{self.text}/{row}", "shop", "red" if row % 2 else "blue")

    def read(self, entries, spec):
        from simrec.reading import batch
        return batch(entries, self.images[[int(entry.id.split("/")[1]) for entry in entries]], spec)

@hookimpl
def simrec_encoders():
    return [EncoderSpec("pixels", "The pixels themselves.", "good_plugin:Pixels", metric="l2")]

@hookimpl
def simrec_sources():
    return [SourceSpec("our-shop", "Pictures of our shop.", "good_plugin:Squares")]
"""
)
"""A plugin with an encoder and a source, in numpy alone, that work correctly."""

SPEC = "EncoderSpec('mine', 'Mine.', 'nowhere:Mine')"

UNLOADABLE = {
    "import-error": ("import no_such_library_anywhere", "No module named 'no_such_library_anywhere'"),
    "syntax-error": ("def simrec_encoders(:", "SyntaxError"),
    "exits": ("import sys\nsys.exit('goodbye')", "it called sys.exit('goodbye')"),
    "panics": ("class Panic(BaseException): pass\nraise Panic('a Rust library gave up')", "a Rust library gave up"),
    "misspelt-hook": (
        f"@hookimpl\ndef simrec_encodres(): return [{SPEC}]",
        "the hooks are simrec_encoders, simrec_sources, simrec_exporters, simrec_engines",
    ),
    "odd-argument": (f"@hookimpl\ndef simrec_encoders(torch): return [{SPEC}]", "'torch'"),
    "not-marked": (f"def simrec_encoders(): return [{SPEC}]", "@hookimpl"),
    "wrong-reader": (
        "from simrec.contracts import ExporterSpec\n"
        "@hookimpl\ndef simrec_exporters(): return [ExporterSpec('arff', '', 'a:b', reader='read')]",
        "reader 'read' must read 'package.module:name'",
    ),
    "wrong-api": (f"@hookimpl\ndef simrec_encoders(): return [{SPEC[:-1]}, api=99)]", "contract 99"),
    "old-api": (
        f"@hookimpl\ndef simrec_encoders(): return [{SPEC[:-1]}, api=1)]",
        "was written for contract 1, this simrec has 3 (since contract 2 a source lists entries",
    ),
    "old-exporter": (
        "from simrec.contracts import ExporterSpec\n"
        "@hookimpl\ndef simrec_exporters(): return [ExporterSpec('arff', '', 'a:b', api=2)]",
        "was written for contract 2, this simrec has 3 (since contract 3 an exporter writes a table",
    ),
    "old-source": (
        "@hookimpl\ndef simrec_sources(): return [SourceSpec('old-source', '', 'a:b', api=1)]",
        "was written for contract 1, this simrec has 3",
    ),
    "wrong-metric": (f"@hookimpl\ndef simrec_encoders(): return [{SPEC[:-1]}, metric='cos')]", "'cos'"),
    "wrong-name": ("@hookimpl\ndef simrec_sources(): return [SourceSpec('our:shop', '', 'a:b')]", "'our:shop'"),
    "returns-none": ("@hookimpl\ndef simrec_encoders(): pass", "returned None"),
    "returns-names": ("@hookimpl\ndef simrec_encoders(): return ['mine']", "'mine', which is no EncoderSpec"),
    "wrong-hook": (f"@hookimpl\ndef simrec_sources(): return [{SPEC}]", "which is no SourceSpec"),
    "returns-one": (
        f"@hookimpl\ndef simrec_encoders(): return {SPEC}",
        "simrec_encoders returned EncoderSpec: it must return a list of EncoderSpec",
    ),
    "no-name": (
        "@hookimpl\ndef simrec_encoders(): return [EncoderSpec(None, '', 'a:b')]",
        "encoder None: its name is NoneType, not str",
    ),
    "no-summary": (
        "@hookimpl\ndef simrec_encoders(): return [EncoderSpec('mine', None, 'a:b')]",
        "encoder 'mine': its summary is NoneType, not str",
    ),
    "number-explanation": (
        f"@hookimpl\ndef simrec_encoders(): return [{SPEC[:-1]}, explanation=3)]",
        "encoder 'mine': its explanation is int, not str",
    ),
    "text-api": (
        f"@hookimpl\ndef simrec_encoders(): return [{SPEC[:-1]}, api='3')]",
        "encoder 'mine': its api is str, not int",
    ),
    "number-ending": (
        "@hookimpl\ndef simrec_exporters(): return [ExporterSpec('arff', '', 'a:b', endings=(3,))]",
        "ending 3 must read like '.parquet'",
    ),
    "half": (f"@hookimpl\ndef simrec_encoders():\n    yield {SPEC}\n    raise OSError('no more')", "no more"),
    "raises": ("@hookimpl\ndef simrec_encoders(): raise KeyError('first\\nsecond')", "KeyError"),
}
"""Plugins that cannot be loaded, by what is wrong with them: their code, and the error."""


def overriding(line: str) -> Callable[[str], str]:
    """A plugin whose encoder, named like the plugin, does one thing wrong."""

    def source(name: str) -> str:
        module = name.replace("-", "_")
        return (
            f"{PIXELS}\nclass Broken(Pixels):\n    {line}\n\n@hookimpl\ndef simrec_encoders():\n"
            f"    return [EncoderSpec({name!r}, 'Broken.', '{module}:Broken')]\n"
        )

    return source


def with_factory(factory: str) -> Callable[[str], str]:
    return lambda name: (
        f"{HEAD}\n@hookimpl\ndef simrec_encoders(): return [EncoderSpec({name!r}, 'Broken.', {factory!r})]\n"
    )


def fitted(history: str) -> Callable[[str], str]:
    """A plugin whose encoder's `fit` returns that."""
    return overriding(f"def fit(self, *_, **__): return {history}")


UNUSABLE: dict[str, tuple[Callable[[str], str], str]] = {
    "no-module": (with_factory("no_module_there.model:Mine"), "cannot be used: No module named 'no_module_there'"),
    "no-class": (with_factory("no_class:Mine"), "cannot be used: AttributeError"),
    "no-encoder": (with_factory("json:JSONDecoder"), "has no Settings, presets, fit"),
    "raises-when-made": (overriding("def __init__(self, settings): raise ValueError('no')"), "failed: ValueError: no"),
    "exits-when-fitted": (overriding("def fit(self, *_, **__): raise SystemExit(3)"), "failed: it called sys.exit(3)"),
    "no-module-inside": (with_factory("json.no_model:Mine"), "json has no such module: correct the name, or install"),
    "presets-in-a-list": (overriding("presets = [Settings()]"), "its presets are no dict of names and Settings"),
    "presets-of-dicts": (overriding("presets = {'default': {}}"), "its presets are no dict of names and Settings"),
    "no-input": (overriding("input = None"), "has an input that is None, not an ImageSpec"),
    "input-of-numbers": (overriding("input = (28, 28, 1)"), "has an input that is (28, 28, 1), not an ImageSpec"),
    "dim-of-numpy": (overriding("dim = np.int64(784)"), "has a dim that is np.int64(784), not an int of 1 or more"),
    "sample-of-words": (overriding("sample = 'many'"), "has a sample that is 'many', not an int"),
    "setting-that-is-a-path": (
        overriding("presets = {'default': Settings(Path('x'))}"),
        "has settings that JSON can't keep (Object of type PosixPath is not JSON serializable)",
    ),
    "no-history": (fitted("None"), "kept no epoch"),
    "kept-none": (fitted("History((Epoch(1, 0.0, 0.0, {}, 0.0),), None, 'finished')"), "kept epoch None of 1"),
    "ended-in-other-words": (
        fitted("History((Epoch(1, 0.0, 0.0, {}, 0.0),), 1, 'done')"),
        "returned a History whose ended is 'done', not finished or converged or interrupted",
    ),
    "epochs-of-numbers": (fitted("History((1,), 1, 'finished')"), "a History whose epochs are (1,), not Epochs"),
    "no-parts": (
        fitted("History((Epoch(1, 0.0, 0.0, None, 0.0),), 1, 'finished')"),
        "returned an Epoch whose parts are NoneType, not a dict",
    ),
    "no-loss": (
        fitted("History((Epoch(1, None, 0.0, {}, 0.0),), 1, 'finished')"),
        "returned an Epoch whose loss is NoneType, not a number",
    ),
    "masked": (
        overriding("def encode(self, images): return np.ma.masked_array(super().encode(images))"),
        "gives codes that are MaskedArray, not a plain numpy array",
    ),
    "float64": (
        overriding("def encode(self, images): return super().encode(images).astype(float)"),
        "gives codes that are float64 (36, 784), not float32 (36, 784)",
    ),
    "wrong-shape": (
        overriding("def encode(self, images): return super().encode(images)[:, :5]"),
        "gives codes that are float32 (36, 5), not float32 (36, 784)",
    ),
    "nan": (
        overriding("def encode(self, images): return super().encode(images) * np.float32('nan')"),
        "gives codes that are not finite",
    ),
    "list": (overriding("def encode(self, images): return super().encode(images).tolist()"), "that are list"),
}
"""Plugins that load and fail when their encoder is used: their code, and the error."""


def broken_source(**changes: str) -> Callable[[str], str]:
    """A plugin whose source lists and reads three items, except for changes: the body of a method by its name."""
    bodies = {
        "__init__": "self.name, self.test, self.reduced = NAME, None, False",
        "entries": "return iter([Entry('a', 'shop'), Entry('b', 'shop'), Entry('c', 'shop')])",
        "read": "return Batch(entries, np.zeros((len(entries), *spec.shape), np.uint8), [b'p'] * len(entries), "
        "[content(b'p')] * len(entries))",
        **changes,
    }
    arguments = {"__init__": "text, *, data_dir, notice", "__getattr__": "name", "read": "entries, spec"}

    def source(name: str) -> str:
        methods = "".join(
            f"    def {method}(self, {arguments.get(method, '')}):\n        {body}\n" for method, body in bodies.items()
        )
        return (
            f"{HEAD}\nNAME = {name!r}\n\nclass Source:\n{methods}\n@hookimpl\n"
            f"def simrec_sources(): return [SourceSpec(NAME, 'Broken.', '{name.replace('-', '_')}:Source')]\n"
        )

    return source


def read_as(images: str, **others: str) -> str:
    """The body of a `read` that returns those images, and anything else that is wrong."""
    parts = {"entries": "entries", "previews": "[b'p'] * 3", "contents": "[content(b'p')] * 3", **others}
    return f"return Batch({parts['entries']}, {images}, {parts['previews']}, {parts['contents']})"


def read_with(change: str) -> str:
    """The body of a `read` that reads everything well, except for a change of its batch."""
    return (
        "from simrec import reading; good = reading.batch(entries, np.zeros((3, *spec.shape), np.uint8), spec); "
        f"return replace(good, {change})"
    )


IMAGES = "np.zeros((3, *spec.shape), np.uint8)"

UNREADABLE: dict[str, tuple[Callable[[str], str], str]] = {
    "source-exits": (broken_source(__init__="raise SystemExit(4)"), "failed: it called sys.exit(4)"),
    "source-of-nothing": (
        lambda name: (
            f"{HEAD}\ndef shop(text, *, data_dir, notice): pass\n\n@hookimpl\n"
            f"def simrec_sources(): return [SourceSpec({name!r}, 'Broken.', 'source_of_nothing:shop')]\n"
        ),
        "returned NoneType, which has no name, test, reduced, entries, read",
    ),
    "source-of-contract-1": (
        lambda name: (
            f"{HEAD}\ndef shop(text, spec, *, data_dir, notice): pass\n\n@hookimpl\n"
            f"def simrec_sources(): return [SourceSpec({name!r}, 'Old.', 'source_of_contract_1:shop')]\n"
        ),
        "was written for contract 1, this simrec has 3",
    ),
    "source-with-a-number-as-test": (
        broken_source(__init__="self.name, self.test, self.reduced = 'mine', 5, False"),
        "has a test that is int, not a text or None",
    ),
    "source-whose-name-is-a-path": (
        broken_source(__init__="self.name, self.test, self.reduced = Path('mine'), None, False"),
        "has a name that is PosixPath, not a text",
    ),
    "source-whose-test-raises": (
        broken_source(__init__="self.name, self.reduced = 'mine', False", __getattr__="raise KeyError(name)"),
        "failed: KeyError: 'test'",
    ),
    "source-that-lists-names": (broken_source(entries="yield 'a'"), "listed str, which is no Entry"),
    "source-that-stops": (
        broken_source(entries="yield Entry('a', ''); raise OSError('the shop is closed')"),
        "failed: OSError: the shop is closed",
    ),
    "source-of-no-batch": (broken_source(read="return [1]"), "returned list, not a Batch"),
    "source-that-cannot-read": (broken_source(read="raise KeyError('a')"), "failed: KeyError"),
    "source-of-floats": (
        broken_source(read=read_as("np.zeros((3, *spec.shape))")),
        "images that are float64 (3, 28, 28, 1)",
    ),
    "source-of-others": (
        broken_source(read=read_as("np.zeros((3, 5, 5, 1), np.uint8)")),
        "images that are uint8 (3, 5, 5, 1)",
    ),
    "source-of-too-few": (broken_source(read=read_as(IMAGES, previews="[b'p']")), "no preview or no content"),
    "source-of-words": (broken_source(read=read_as(IMAGES, contents="['red'] * 3")), "contents that"),
    "source-of-strangers": (
        broken_source(read=read_as(IMAGES, entries="[Entry(i, '') for i in 'xyz']")),
        "other entries than those it was given",
    ),
    "source-that-mixes": (
        broken_source(read=read_as(IMAGES, entries="entries[::-1]")),
        "other entries than those it was given",
    ),
    "source-of-number-ids": (
        broken_source(entries='yield Entry(7, "")'),
        "listed the entry 7, whose id is int, not a text",
    ),
    "source-of-byte-ids": (
        broken_source(entries='yield Entry(b"7", "")'),
        "listed the entry b'7', whose id is bytes, not a text",
    ),
    "source-of-empty-ids": (broken_source(entries='yield Entry("", "")'), "listed an entry whose id is empty"),
    "source-of-surrogates": (broken_source(entries='yield Entry("a\\udc80", "")'), "whose id is no UTF-8"),
    "source-of-no-label": (
        broken_source(entries='yield Entry("a", "", None)'),
        "listed the entry 'a', whose label is NoneType, not a text",
    ),
    "source-of-no-source": (
        broken_source(entries='yield Entry("a", None)'),
        "listed the entry 'a', whose source is NoneType, not a text",
    ),
    "source-of-number-stamps": (
        broken_source(entries='yield Entry("a", "", "", 5)'),
        "listed the entry 'a', whose stamp is int, not a text",
    ),
    "source-of-no-fields": (
        broken_source(entries='yield Entry("a", "", fields=None)'),
        "listed the entry 'a', whose fields are NoneType, not a dict",
    ),
    "source-of-number-names": (
        broken_source(entries='yield Entry("a", "", fields={1: 2})'),
        "listed the entry 'a', whose field's name is int, not a text",
    ),
    "source-of-lists": (
        broken_source(entries='yield Entry("a", "", fields={"n": [1]})'),
        "whose field 'n' is list, not a text, a number or None",
    ),
    "source-of-surrogate-fields": (
        broken_source(entries='yield Entry("a", "", fields={"n": "\\udc80"})'),
        "whose field 'n' is no UTF-8",
    ),
    "source-of-65-bits": (
        broken_source(entries='yield Entry("a", "", fields={"n": 2**63})'),
        "whose field 'n' has more than 64 bits: make it a text",
    ),
    "source-that-drops": (
        broken_source(
            read=read_with(
                "entries=entries[:1], images=good.images[:1], previews=good.previews[:1], contents=good.contents[:1]"
            )
        ),
        "returned neither a picture nor an error for 'b'",
    ),
    "source-of-no-entries": (
        broken_source(read=read_with("entries=None")),
        "returned entries that are NoneType, not a list",
    ),
    "source-of-a-generator": (
        broken_source(read=read_with("entries=(entry for entry in entries)")),
        "returned entries that are generator, not a list",
    ),
    "source-that-relabels": (
        broken_source(read=read_with("entries=[replace(entry, label='red') for entry in entries]")),
        "other entries than those it was given",
    ),
    "source-of-no-errors": (
        broken_source(read=read_with("errors=None")),
        "returned errors that are NoneType, not a list",
    ),
    "source-of-other-errors": (
        broken_source(read=read_with("errors=[(entries[0], ValueError('no'))]")),
        "returned the error (Entry(id='a'",
    ),
    "source-of-strangers-errors": (
        broken_source(read=read_with("errors=[(Entry('x', ''), ImageError('no'))]")),
        "returned an error for 'x', which is not an entry that it was given",
    ),
    "source-of-read-errors": (
        broken_source(read=read_with("errors=[(entries[1], ImageError('no'))]")),
        "returned an error for 'b', which it also read",
    ),
    "source-of-no-previews": (
        broken_source(read=read_with("previews=[None] * 3")),
        "returned a preview of 'a' that is NoneType, not bytes",
    ),
    "source-of-odd-previews": (
        broken_source(read=read_with("previews=[*good.previews[:2], b'p']")),
        "returned a preview of 'c' that is no preview (neither a PNG nor a JPEG",
    ),
    "source-of-long-previews": (
        broken_source(read=read_with("previews=[good.previews[0] + bytes(1 << 20)] * 3")),
        "returned a preview of 'a' that has more than 1,048,576 bytes",
    ),
    "source-of-no-contents": (broken_source(read=read_with("contents=[None] * 3")), "contents that"),
    "source-of-read-lists": (
        broken_source(read=read_with("fields=[{'w': [1]}] * 3")),
        "read the entry 'a', whose field 'w' is list",
    ),
    "source-of-no-read-fields": (
        broken_source(read=read_with("fields=None")),
        "returned fields that are NoneType, not a list",
    ),
}
"""Plugins with a source that fails when it is used."""

NUMPY = broken_source(
    entries="""yield Entry(np.str_("a"), "shop", fields={np.str_("text"): np.str_("red"), "whole": np.int32(2),
            "decimal": np.float32(0.5), "truth": np.bool_(True), "none": np.nan})
        yield Entry("b", "shop", fields={"text": "blue", "whole": np.int64(-2**63), "decimal": 1.5, "truth": False,
            "none": float("inf")})
        yield Entry("c", "shop", fields={"whole": 2**63 - 1})""",
    read=read_with(""),
)("source-of-numpy")
"""A plugin with a source whose fields are of numpy."""

MISNAMED = {
    "source-of-no-place": ("self.name, self.test, self.reduced = 'nowhere', None, False", "which can't open it again:"),
    "source-that-wanders": (
        "self.name, self.test, self.reduced = 'source-that-wanders:' + text + 'x', None, False",
        "which opens 'source-that-wanders:xx'",
    ),
}
"""Plugins with a source whose name doesn't open it again: how it is made, and the error."""

UNWRITABLE: dict[str, tuple[Callable[[str], str], str]] = {
    "exporter-of-contract-2": (
        lambda name: (
            f"{HEAD}\ndef write(target, batches, origin): pass\n\n@hookimpl\n"
            f"def simrec_exporters(): return [ExporterSpec({name!r}, 'Old.', 'exporter_of_contract_2:write', "
            f"endings=('.old',))]\n"
        ),
        "was written for contract 2, this simrec has 3: its exporter_of_contract_2:write must take target, table",
    ),
    "exporter-that-returns-a-text": (
        lambda name: (
            f"{HEAD}\ndef write(target, table, origin):\n    for batch in table: pass\n    return target\n\n@hookimpl\n"
            f"def simrec_exporters(): return [ExporterSpec({name!r}, 'Broken.', 'exporter_that_returns_a_text:write', "
            f"endings=('.text',))]\n"
        ),
        "returned 'demo.any', not a list of files that it wrote",
    ),
    "exporter-that-fails": (
        lambda name: (
            f"{HEAD}\ndef write(target, table, origin): raise KeyError('a')\n\n@hookimpl\n"
            f"def simrec_exporters(): return [ExporterSpec({name!r}, 'Broken.', 'exporter_that_fails:write', "
            f"endings=('.fails',))]\n"
        ),
        "failed: KeyError",
    ),
}
"""Plugins with an exporter that can't be used."""

ENGINE = (
    HEAD
    + '''
from simrec.contracts import EngineSpec, masks
from simrec.errors import StoreError

class Shelf:
    """A database in memory, which keeps its contract."""

    held = {}

    def __init__(self, address, *, notice):
        self.address = address

    @property
    def table(self):
        return self.held.get(self.address, (None, {}))[0]

    def kept(self):
        return [row for _, row in sorted(self.held.get(self.address, (None, {}))[1].items())]

    def __len__(self):
        return len(self.kept())

    def search(self, codes, n, where=None, *, exact=False):
        distances = [[(row.item, float(((row.code - code) ** 2).sum())) for row in self.kept()] for code in codes]
        return [sorted(some, key=lambda one: one[1])[:n] for some in distances]

    def count(self, where):
        return len(self)

    def rows(self, where=None, *, ids=None, contents=None, codes=True, previews=False):
        yield [row for row in self.kept() if ids is None or row.item.id in ids]

    def digests(self):
        yield from ((row.item.id, row.digest) for row in self.kept())

    def apply(self, table, rows, removed, *, replace):
        kept = {row.item.id: row for some in rows for row in some}
        kept = {**({} if replace else {row.item.id: row for row in self.kept()}), **kept}
        for id_ in removed:
            kept.pop(id_, None)
        self.held[self.address] = table, kept

    def close(self):
        pass
'''
)
"""A plugin's engine that works correctly."""


def shelf(name: str, line: str = "pass") -> str:
    """A plugin whose engine, named like the plugin, does one thing wrong."""
    return (
        f"{ENGINE}\nclass Broken(Shelf):\n    {line}\n\n@hookimpl\ndef simrec_engines():\n"
        f"    return [EngineSpec({name!r}, 'Broken.', '{name.replace('-', '_')}:Broken')]\n"
    )


SEARCH = "def search(self, codes, n, *_, **__): "
ROWS = "def rows(self, *_, **__): "
APPLY = "def apply(self, table, rows, removed, *, replace): "

UNANSWERING = {
    "table-raises": ("table = property(lambda self: 1 / 0)", "failed: ZeroDivisionError"),
    "table-is-a-dict": ("table = {'dim': 3}", "says that its table is dict, not a Table or None"),
    "length-is-a-text": ("def __len__(self): return '5'", "failed: TypeError: 'str' object"),
    "apply-raises": (APPLY + "raise RuntimeError('no')", "failed: RuntimeError: no"),
    "apply-reads-nothing": (APPLY + "self.held[self.address] = table, {}", "wrote a change without reading all of it"),
    "apply-writes-nothing": (
        APPLY + "list(rows), list(removed)",
        "wrote a change, but its table isn't there",
    ),
    "apply-writes-half": (
        APPLY + "super().apply(table, rows, removed, replace=replace); self.held[self.address][1].popitem()",
        "wrote a change, but its table has 39 rows, not 40",
    ),
    "close-raises": ("def close(self): raise RuntimeError('no')", "failed: RuntimeError: no"),
    "search-raises": (SEARCH + "raise RuntimeError('no')", "failed: RuntimeError: no"),
    "search-returns-none": (SEARCH + "return None", "answered a search for 1 code with NoneType, not with a list"),
    "search-returns-too-few": (SEARCH + "return []", "answered a search for 1 code with 0 lists"),
    "search-returns-ids": (
        SEARCH + "return [[(item.id, distance) for item, distance in super(Broken, self).search(codes, n)[0]]]",
        "answered a search with something else than pairs of an Item and a finite distance",
    ),
    "search-returns-nan": (
        SEARCH + "return [[(item, float('nan')) for item, _ in super(Broken, self).search(codes, n)[0]]]",
        "answered a search with something else than pairs of an Item and a finite distance",
    ),
    "search-returns-the-farthest-first": (
        SEARCH + "return [super(Broken, self).search(codes, n)[0][::-1]]",
        "answered a search with items that are not in the order of their distances",
    ),
    "search-returns-one-twice": (
        SEARCH + "return [super(Broken, self).search(codes, n)[0][:1] * 2]",
        "with more, or with one of them twice",
    ),
    "search-returns-more": (SEARCH + "return super().search(codes, 40)", "with more, or with one of them twice"),
    "count-returns-none": ("def count(self, where): return None", "counted None items, which is no whole number"),
    "rows-raises": (ROWS + "raise RuntimeError('no')", "failed: RuntimeError: no"),
    "rows-yields-single-rows": (ROWS + "yield from self.kept()", "gave Row where a list of Rows was due"),
    "rows-yields-short-codes": (
        ROWS + "yield [row._replace(code=row.code[:3]) for row in self.kept()]",
        "gave codes that don't have the",
    ),
}
"""Plugins with an engine that fails when it is used: what is wrong, and the error."""

TAKEN = "@hookimpl\ndef simrec_encoders(): return [EncoderSpec('plain', 'Another.', 'taken:Plain')]"

PLUGINS = {
    "good-plugin": GOOD,
    **{name: HEAD + source for name, (source, _) in UNLOADABLE.items()},
    "source-of-numpy": NUMPY,
    **{name: source(name) for name, (source, _) in (UNUSABLE | UNREADABLE | UNWRITABLE).items()},
    **{name: broken_source(__init__=init, read=read_with(""))(name) for name, (init, _) in MISNAMED.items()},
    "good-shelf": shelf("good-shelf"),
    **{name: shelf(name, line) for name, (line, _) in UNANSWERING.items()},
    "taken": HEAD + TAKEN,
}


OURS = f"simrec {version('simrec')}"


def install(folder: Path, name: str, source: str, version: str = "1.2.3") -> None:
    """Installs a distribution with one module and one entry point, like pip."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/entry_points.txt": f"[simrec]\n{name} = {module}\n",
    }
    record = []
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(text.encode())}\n")
    (folder / info / "RECORD").write_text("".join([*record, f"{info}/RECORD,,\n"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed distributions: a good plugin, one broken in each way, and one whose module is gone."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in PLUGINS.items():
        install(folder, name, source)
    install(folder, "without-module", "")
    (folder / "without_module.py").unlink()
    return folder


def forget_plugins() -> None:
    """As in a new process: installed plugins are neither known nor imported yet."""
    importlib.invalidate_caches()
    host._discover.cache_clear()
    for name in [*PLUGINS, "rival", "my-package"]:
        sys.modules.pop(name.replace("-", "_"), None)


@pytest.fixture
def install_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Installs the distributions in a folder, as long as the test lasts."""

    def put(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        forget_plugins()

    yield put
    forget_plugins()


@pytest.fixture
def installed(site: Path, install_site: Callable[[Path], None]) -> None:
    """The distributions of `site` are installed."""
    install_site(site)


class Outcome(NamedTuple):
    """A command's result."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one-line error of a failed command."""
        assert self.status == 1, self.err
        (line,) = self.err.splitlines()
        assert line.startswith("Error: ")
        assert "bug in simrec" not in line
        return line.removeprefix("Error: ")


Command = Callable[..., Outcome]


@pytest.fixture
def simrec(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(["--quiet", *map(str, words)])
        return Outcome(int(leaving.value.code or 0), *capsys.readouterr())

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What is installed.


@pytest.mark.usefixtures("installed")
def test_broken_plugins_of_every_kind_are_listed_with_their_version_and_reason_and_the_others_work(
    simrec: Command,
) -> None:
    done = simrec("plugins", "list", "--format", "json")
    assert done.status == 1
    assert done.err == ""
    answer = json.loads(done.out)
    offered = {(offer["name"], offer["kind"], offer["distribution"]) for offer in answer["plugins"]}
    built_in = {("fashion-mnist", "source"), ("folder", "source"), ("list", "source")}
    built_in |= {(name, "encoder") for name in ("plain", "sparse", "denoising", "vae", "pca", "torchvision")}
    assert {(*named, OURS) for named in built_in} <= offered
    assert {("pixels", "encoder", "good-plugin 1.2.3"), ("our-shop", "source", "good-plugin 1.2.3")} <= offered
    assert {(name, "encoder", f"{name} 1.2.3") for name in UNUSABLE} <= offered
    assert {(name, "source", f"{name} 1.2.3") for name in UNREADABLE} <= offered
    assert "mine" not in {name for name, _, _ in offered}  # nothing of a plugin that failed half-way

    reasons = {failure["distribution"]: failure["reason"] for failure in answer["failures"]}
    assert set(reasons) == {f"{name} 1.2.3" for name in (*UNLOADABLE, "without-module")}
    for name, (_, expected) in UNLOADABLE.items():
        assert expected in reasons[f"{name} 1.2.3"]
        assert "\n" not in reasons[f"{name} 1.2.3"]
    assert "No module named 'without_module'" in reasons["without-module 1.2.3"]

    (conflict,) = answer["conflicts"]
    assert f"encoder 'plain' is offered by {OURS} and taken 1.2.3" in conflict


@pytest.mark.usefixtures("installed")
def test_the_table_of_plugins_says_the_same(simrec: Command) -> None:
    done = simrec("plugins", "list")
    assert done.status == 1
    for name in UNLOADABLE:
        assert f"Broken: plugin '{name}' ({name} 1.2.3) could not be loaded: " in done.out
    assert "Broken: encoder 'plain' is offered by" in done.out
    assert "The pixels themselves." in done.out


def test_with_nothing_broken_the_list_exits_with_0(simrec: Command) -> None:
    done = simrec("plugins", "list")
    assert done.status == 0, done.out
    assert "Broken" not in done.out


@pytest.mark.usefixtures("installed")
def test_a_name_that_two_plugins_offer_is_an_error_that_names_both_only_if_used(simrec: Command) -> None:
    assert "is offered by simrec" in (line := simrec("plugins", "show", "plain").error)
    assert "and taken 1.2.3" in line
    assert simrec("plugins", "show", "vae").status == 0


@pytest.mark.usefixtures("installed")
def test_leaving_out_one_of_two_that_offer_a_name_makes_the_other_answer(
    simrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "simrec,good-plugin")
    done = simrec("plugins", "list")
    assert done.status == 0
    left_out = re.search("Left out by SIMREC_PLUGINS: (.*)", done.out)
    assert left_out and {"exits", "misspelt-hook", "taken"} <= set(left_out[1].split(", "))
    assert simrec("plugins", "show", "plain").status == 0


def test_help_and_a_look_up_import_no_plugin_that_is_installed(
    tmp_path: Path, shoe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = folder_made(tmp_path / "site"), tmp_path / "imported"
    install(folder, "tells", f"open({str(told)!r}, 'w')\nraise SystemExit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    for words, imported in (
        (["--help"], False),
        (["similar", str(shoe), "--index", "demo"], False),
        (["plugins", "list"], True),
    ):
        done = subprocess.run([sys.executable, "-m", "simrec", *words], capture_output=True, check=False)
        assert done.returncode == imported, done.stderr
        assert told.exists() == imported


# SIMREC_PLUGINS.


def chosen(choice: str, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], set[str]]:
    monkeypatch.setenv("SIMREC_PLUGINS", choice)
    found = host.discover()
    return set(found.names(EncoderSpec)), set(found.names(SourceSpec))


@pytest.mark.parametrize(
    ("choice", "encoders"),
    [
        ("", set()),
        ("vae", {"vae"}),
        ("vae, plain", {"vae", "plain"}),
        ("Simrec", {"plain", "sparse", "denoising", "vae", "pca", "torchvision"}),
    ],
)
def test_simrec_plugins_chooses_by_entry_point_and_distribution_and_never_loses_simrecs_own_sources(
    choice: str, encoders: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, sources = chosen(choice, monkeypatch)
    assert found >= encoders if choice == "Simrec" else found == encoders
    assert sources == {"fashion-mnist", "folder", "list"}


def test_a_name_in_simrec_plugins_that_is_not_installed_is_an_error_with_the_near_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RequestError, match="SIMREC_PLUGINS names 'vea', .* did you mean 'vae'"):
        chosen("vea", monkeypatch)


def test_the_error_says_that_simrec_plugins_leaves_an_encoder_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "vae")
    with pytest.raises(PluginError, match=r"no encoder 'plain': .*SIMREC_PLUGINS leaves out .*plain"):
        host.discover().find(EncoderSpec, "plain")


@pytest.mark.usefixtures("installed")
def test_a_source_whose_plugin_could_not_be_loaded_is_refused_with_the_reason(simrec: Command) -> None:
    for name in ("old-source", "import-error"):
        for source in (name, f"{name}:winter"):
            error = simrec("index", "build", "mine", source, "--encoder", "demo").error
            assert error.startswith(f"plugin '{name}' ({name} 1.2.3) could not be loaded: ")
            assert UNLOADABLE[name][1] in error
    error = simrec("index", "build", "mine", "nowhere:winter", "--encoder", "demo").error
    assert error.startswith("no source 'nowhere:winter': ")
    assert "some plugins could not be loaded: 'simrec plugins list' says why" in error
    Path("old-source").mkdir()
    assert "no pictures in this folder" in simrec("index", "build", "mine", "old-source", "--encoder", "demo").error


def test_the_error_says_that_simrec_plugins_leaves_a_source_out(
    simrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "")
    error = simrec("index", "build", "mine", "our-shop", "--encoder", "demo").error
    assert "SIMREC_PLUGINS leaves out" in error


def test_without_any_plugin_folders_are_indexed_and_pictures_looked_up(
    simrec: Command, photos: Path, shoe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "")
    assert simrec("index", "build", "mine", photos, "--encoder", "demo").status == 0
    assert simrec("similar", shoe, "--index", "mine").status == 0


# Faults of an encoder.


@pytest.mark.usefixtures("installed")
def test_a_good_plugin_beside_broken_ones_trains_indexes_and_answers(simrec: Command, photos: Path) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine").status == 0
    query = next(photos.glob("Bag/*.png"))
    done = simrec("similar", query, "--index", "mine", "-n", "1", "--format", "json")
    assert json.loads(done.out)[0]["label"] == "Bag"
    assert done.err == ""


def test_what_a_plugin_prints_is_no_answer(
    simrec: Command, tmp_path: Path, install_site: Callable[[Path], None], photos: Path
) -> None:
    folder = tmp_path / "talking"
    source = GOOD.replace("        return", "        print('Look at me!')\n        return")
    install(folder, "good-plugin", f"print('Hello!')\n{source}")
    install_site(folder)
    for words in (["train", "pixels", "--name", "mine", "--data", "our-shop"], ["index", "build", "mine"]):
        done = simrec(*words)
        assert (done.status, done.out) == (0, "")
        assert "Look at me!" in done.err
    done = simrec("similar", next(photos.glob("Bag/*.png")), "--index", "mine", "-n", "2", "--format", "json")
    assert len(json.loads(done.out)) == 2
    assert "Look at me!" in done.err
    forget_plugins()
    done = simrec("plugins", "list", "--format", "json")
    assert any(offer["name"] == "pixels" for offer in json.loads(done.out)["plugins"])
    assert "Hello!" in done.err


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train exits", "(exits 1.2.3) could not be loaded: it called sys.exit('goodbye')"),
        ("train misspelt-hook", "(misspelt-hook 1.2.3) could not be loaded"),
        ("train pixles", "did you mean 'pixels'?"),
        ("train pixels --preset darkr", "did you mean 'darker'?"),
        ("train pixels --set brightnes=2", "did you mean 'brightness'?"),
        ("train pixels --set brightness=much", "it takes a number"),
        ("train pixels --data nowhere", "no source 'nowhere'"),
        ("train pixels --data our-shop:all", "our-shop has no 'all'"),
    ],
)
def test_a_training_that_cannot_begin_is_one_line_and_changes_nothing(
    simrec: Command, tmp_path: Path, words: str, expected: str
) -> None:
    before = tree(tmp_path)
    assert expected in simrec(*words.split()).error
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_encoder_that_breaks_its_contract_is_named_and_the_old_recommender_stays(
    name: str, photos: Path, own_home: Path
) -> None:
    api.train("pixels", name="mine", source=str(photos))
    before = tree(own_home)
    with pytest.raises(PluginError) as raised:
        api.train(name, name="mine", source=str(photos))
    said = str(raised.value)
    assert f"encoder '{name}' ({name} 1.2.3)" in said
    assert UNUSABLE[name][1] in said
    assert "\n" not in said
    assert tree(own_home) == before


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_source_that_breaks_its_contract_is_named_and_the_old_catalogue_stays(
    name: str, photos: Path, own_home: Path
) -> None:
    api.build("mine", str(photos), encoder="demo")
    before = tree(own_home)
    with pytest.raises(PluginError) as raised:
        api.build("mine", name, replace=True)
    assert f"source '{name}' ({name} 1.2.3)" in str(raised.value)
    assert UNREADABLE[name][1] in str(raised.value)
    assert tree(own_home) == before


@pytest.mark.usefixtures("installed")
def test_fields_of_numpy_and_truth_values_are_kept_and_numbers_that_are_none_are_empty(own_home: Path) -> None:
    built = api.build("mine", "source-of-numpy", encoder="demo")
    fields = [item.fields for item in built.catalogue.all()]
    assert fields == [
        {"text": "red", "whole": 2, "decimal": 0.5, "truth": 1, "none": None},
        {"text": "blue", "whole": -(2**63), "decimal": 1.5, "truth": 0, "none": None},
        {"text": None, "whole": 2**63 - 1, "decimal": None, "truth": None, "none": None},
    ]
    assert [item.id for item in built.catalogue.all()] == ["a", "b", "c"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", UNWRITABLE)
def test_an_exporter_that_breaks_its_contract_is_named_and_writes_nothing(
    name: str, simrec: Command, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    error = simrec("export", "demo", "-o", "demo.any", "--format", name).error
    assert f"exporter '{name}' ({name} 1.2.3)" in error
    assert UNWRITABLE[name][1] in error
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("astype(np.float64) * np.float64(", "gives codes that are float64"),
        ("astype(np.float32)[:, :9] * np.float32(", "gives codes that are float32 (1, 9), not float32 (1, 784)"),
        ("astype(np.float32) + np.float32('nan') * np.float32(", "gives codes that are not finite"),
        ("astype(np.float32) * exit(1) * np.float32(", "failed: it called sys.exit(1)"),
    ],
)
def test_an_upgrade_that_breaks_the_contract_is_named_with_its_version_when_used(
    simrec: Command, after: str, expected: str, tmp_path: Path, photos: Path, install_site: Callable[[Path], None]
) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine").status == 0
    upgrade = folder_made(tmp_path / "upgrade")
    install(upgrade, "good-plugin", GOOD.replace("astype(np.float32) * np.float32(", after), "2.0")
    install_site(upgrade)
    line = simrec("similar", next(photos.glob("Bag/*.png")), "--index", "mine").error
    assert line.startswith("encoder 'pixels' (good-plugin 2.0) ")
    assert expected in line


UPGRADES = {"the same codes": GOOD, "other codes": GOOD.replace("self.dim).astype", "self.dim)[:, ::-1].astype")}


def upgraded(codes: str, tmp_path: Path, install_site: Callable[[Path], None]) -> None:
    """Installs version 2.0 of the good plugin."""
    install(folder_made(tmp_path / "upgrade"), "good-plugin", UPGRADES[codes], "2.0")
    install_site(tmp_path / "upgrade")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_an_upgrade_that_encodes_differently_adds_no_items_until_all_are_encoded_again(
    dtype: str, simrec: Command, photos: Path, tmp_path: Path, own_home: Path, install_site: Callable[[Path], None]
) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine", "--dtype", dtype).status == 0
    upgraded("other codes", tmp_path, install_site)
    said = "mine: its codes were made by good-plugin 1.2.3, and good-plugin 2.0"
    query = ["similar", str(next(photos.glob("Bag/*.png"))), "--index", "mine"]
    assert f"{said} is installed" in CliRunner().invoke(cli, query).stderr
    Image.new("L", (28, 28), 90).save(photos / "Bag" / "new.png")
    before = tree(own_home / "mine" / "generations")
    assert simrec("index", "sync", "mine").error.startswith(f"{said} encodes differently: 'simrec index build mine")
    assert tree(own_home / "mine" / "generations") == before
    assert simrec("index", "build", "mine", "--from-scratch", "--discard").status == 0
    Image.new("L", (28, 28), 60).save(photos / "Bag" / "newer.png")
    assert simrec("index", "sync", "mine").status == 0
    assert CliRunner().invoke(cli, query).stderr == ""


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_an_upgrade_that_encodes_as_before_adds_items(
    dtype: str, simrec: Command, photos: Path, tmp_path: Path, install_site: Callable[[Path], None]
) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine", "--dtype", dtype).status == 0
    upgraded("the same codes", tmp_path, install_site)
    Image.new("L", (28, 28), 90).save(photos / "Bag" / "new.png")
    for changed in list(photos.glob("Dress/*.png"))[:5]:  # which don't count as encoded differently
        Image.new("L", (28, 28), 30).save(changed)
    assert simrec("index", "sync", "mine").status == 0
    assert len(api.open("mine").catalogue) == 41


def folder_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.usefixtures("installed")
def test_codes_that_overflow_are_not_indexed(photos: Path, tmp_path: Path, own_home: Path) -> None:
    dark = folder_made(tmp_path / "dark")
    for number in range(12):
        Image.new("L", (28, 28), number % 2).save(dark / f"{number}.png")
    # A pixel of 1 times this can be compared still, one of 255 can't.
    api.train(Plan("pixels", changes={"brightness": "1e16"}), name="mine", source=str(dark))
    before = tree(own_home)
    with pytest.raises(PluginError, match=r"encoder 'pixels' \(good-plugin 1.2.3\) gives codes that are not finite"):
        api.build("mine", str(photos))
    assert tree(own_home) == before


@pytest.mark.usefixtures("installed")
def test_a_recommender_answers_with_its_own_plugin_whoever_else_takes_the_name(
    simrec: Command, photos: Path, tmp_path: Path, install_site: Callable[[Path], None]
) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine").status == 0
    other = folder_made(tmp_path / "other")
    install(other, "rival", GOOD)
    install_site(other)
    assert "good-plugin 1.2.3 and rival 1.2.3" in simrec("plugins", "show", "pixels").error
    done = simrec("similar", next(photos.glob("Bag/*.png")), "--index", "mine")
    assert done.status == 0, done.err


@pytest.mark.usefixtures("installed")
def test_a_recommender_whose_plugin_is_gone_names_it(simrec: Command, photos: Path, site: Path) -> None:
    assert simrec("train", "pixels", "--data", photos, "--name", "mine").status == 0
    assert simrec("index", "build", "mine").status == 0
    sys.path.remove(str(site))
    forget_plugins()
    line = simrec("similar", next(photos.glob("Bag/*.png")), "--index", "mine").error
    assert "its encoder is 'pixels' of good-plugin 1.2.3" in line
    assert line.endswith("install good-plugin")


@pytest.mark.usefixtures("installed")
def test_no_installation_is_suggested_for_a_module_that_is_missing_in_an_installed_package(photos: Path) -> None:
    with pytest.raises(PluginError) as raised:
        api.train("no-module-inside", source=str(photos))
    assert "pip install" not in str(raised.value)


def test_losses_of_numpy_become_pythons(photos: Path, tmp_path: Path, install_site: Callable[[Path], None]) -> None:
    returned = "History([Epoch(1, np.float32(0.5), np.float64(0.5), {'a': np.float32(2)}, 0)], 1, 'finished')"
    folder = folder_made(tmp_path / "site")
    install(folder, "rival", fitted(returned)("rival"))
    install_site(folder)
    made, history = api.train("rival", name="mine", source=str(photos))
    assert made.manifest.encoder.results.loss == 0.5
    assert history.epochs[0].parts == {"a": 2.0}


def test_a_name_that_one_plugin_offers_twice_is_that_plugins_fault(
    simrec: Command, tmp_path: Path, install_site: Callable[[Path], None]
) -> None:
    folder = folder_made(tmp_path / "site")
    install(folder, "rival", f"{HEAD}\n@hookimpl\ndef simrec_encoders(): return [{SPEC}, {SPEC}]")
    install_site(folder)
    assert "encoder 'mine' is offered twice by rival 1.2.3: fix the plugin" in simrec("plugins", "show", "mine").error


# Engines.


@pytest.fixture
def pushed(
    simrec: Command, photos: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[Outcome]]:
    """Pushes a catalogue to the engine of that name and uses it, until something fails."""

    def use(name: str) -> list[Outcome]:
        sys.modules.pop(name.replace("-", "_"), None)  # with what it holds
        api.build("mine", str(photos), encoder="demo")
        done: list[Outcome] = []
        for words in (
            ["index", "push", "mine", f"{name}://x#t", "--as", "there"],
            ["similar", next(photos.glob("Bag/*.png")), "--index", "there", "-n", "5"],
            ["export", "there", "-o", "there.jsonl"],
            ["export", "there", "-o", "some.jsonl", "--where", "label = 'Bag'"],
        ):
            done.append(simrec(*words))
            if done[-1].status:
                break
        return done

    return use


@pytest.mark.usefixtures("installed")
def test_a_good_engine_of_a_plugin_is_pushed_to_and_answers(pushed: Callable[[str], list[Outcome]]) -> None:
    assert [one.status for one in pushed("good-shelf")] == [0, 0, 0, 0]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", UNANSWERING)
def test_an_engine_that_breaks_its_contract_is_named(
    name: str, pushed: Callable[[str], list[Outcome]], own_home: Path
) -> None:
    *good, last = pushed(name)
    assert last.error.startswith(f"engine '{name}' ({name} 1.2.3) ")
    assert UNANSWERING[name][1] in last.error
    assert (own_home / "there").exists() == bool(good)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (shelf("rival", APPLY + "raise StoreError('the shelf is full: make room')"), "the shelf is full: make room"),
        (
            f"{HEAD}\nfrom simrec.contracts import EngineSpec\ndef opened(address, *, notice): pass\n"
            "@hookimpl\ndef simrec_engines(): return [EngineSpec('rival', '', 'rival:opened')]",
            "engine 'rival' (rival 1.2.3) returned NoneType, which has no table, __len__, search",
        ),
    ],
    ids=["on purpose", "nothing"],
)
def test_what_an_engine_raises_on_purpose_passes_and_what_is_none_is_named(
    source: str, expected: str, tmp_path: Path, install_site: Callable[[Path], None],
    pushed: Callable[[str], list[Outcome]],
) -> None:  # fmt: skip
    folder = folder_made(tmp_path / "site")
    install(folder, "rival", source)
    install_site(folder)
    assert pushed("rival")[0].error.startswith(expected)


def test_an_error_in_what_an_engine_reads_is_not_the_engines(
    tmp_path: Path, install_site: Callable[[Path], None]
) -> None:
    folder = folder_made(tmp_path / "site")
    wraps = "\n        try: list(rows)\n        except Exception as error: raise RuntimeError('driver') from error"
    install(folder, "rival", shelf("rival", APPLY + wraps))
    install_site(folder)

    def rows() -> Iterator[list[Row]]:
        yield []
        raise StoreError("a damaged file")

    engine = remote.opened("rival://x#t", print)
    with pytest.raises(StoreError, match="^a damaged file$"):
        engine.apply(Table("tiny", "0", 3, "cosine"), rows(), [], replace=False)


def test_the_error_says_that_simrec_plugins_leaves_an_engine_out(
    simrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMREC_PLUGINS", "vae")
    error = simrec("index", "push", "demo", "lancedb:///x#t").error
    assert "no engine is called 'lancedb': there is none (SIMREC_PLUGINS leaves out" in error


# Sources.


def test_the_root_of_a_source_may_be_a_path(tmp_path: Path, install_site: Callable[[Path], None]) -> None:
    folder = folder_made(tmp_path / "site")
    root = f"self.name, self.test, self.reduced, self.root = 'rival', None, False, Path({str(tmp_path)!r})"
    install(folder, "rival", broken_source(__init__=root, read=read_with(""))("rival"))
    install_site(folder)
    catalogue = api.build("mine", "rival", encoder="demo").manifest.catalogue
    assert catalogue is not None and catalogue.sources[0].root == str(tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_plugins_source_is_trained_on_indexed_and_evaluated_by_its_name() -> None:
    made, _ = api.train("pixels", name="mine", source="our-shop")
    assert made.manifest.encoder.trained_on.count == 40  # all: it has a test split of its own
    built = api.build("mine")
    assert built.manifest.catalogue is not None
    assert built.manifest.catalogue.source == "our-shop"
    evaluation = api.evaluate(built)
    assert (evaluation.how, evaluation.near_duplicates) == ("test", None)
    assert set(built.examples(4).ids) <= {f"few/{row}" for row in range(12)}  # the test split's
    assert len(api.build("few", "our-shop:few", encoder="mine").catalogue) == 12


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", MISNAMED)
def test_a_source_whose_name_does_not_open_it_again_is_refused_before_anything_is_built(
    name: str, simrec: Command, own_home: Path
) -> None:
    error = simrec("index", "build", "mine", name, "--encoder", "demo").error
    assert error.startswith(f"source '{name}' ({name} 1.2.3) is named ")
    assert MISNAMED[name][1] in error
    assert not (own_home / "mine").exists()


@pytest.mark.usefixtures("installed")
def test_a_folder_with_the_name_of_a_source_is_reached_as_a_path(photos: Path) -> None:
    photos.rename("our-shop")
    demo = api.open("demo")
    assert len(demo.pictures("our-shop").ids) == 40
    assert demo.pictures("our-shop").sources[0] == "shop"
    for path in ("./our-shop", "folder:our-shop"):
        assert demo.pictures(path).sources[0].endswith(".png")
    Path("our-shop").rename("folder")
    assert demo.pictures("folder").sources[0].endswith(".png")


# What is said of an encoder.


@pytest.mark.parametrize("offer", host.discover().of(EncoderSpec), ids=lambda offer: offer.spec.name)
def test_every_built_in_encoder_is_explained_in_two_sentences(offer: host.Offer[EncoderSpec]) -> None:
    assert offer.spec.explanation.count(". ") == 1
    assert offer.spec.explanation.endswith(".")


def test_show_explains_an_encoder_its_settings_and_what_each_preset_changes(simrec: Command) -> None:
    done = simrec("plugins", "show", "vae", "--format", "json")
    answer = json.loads(done.out)
    assert answer["explanation"] == host.discover().find(EncoderSpec, "vae").spec.explanation
    assert {"name": "beta", "default": "0.1"}.items() <= answer["settings"][-1].items()
    assert answer["settings"][-1]["doc"]
    assert answer["presets"]["default"] == {}
    assert answer["presets"]["generate"]["widths"] == "512,256"
    assert answer["distribution"] == OURS


def test_show_names_the_recommenders_that_were_trained_of_it(simrec: Command) -> None:
    assert json.loads(simrec("plugins", "show", "plain", "--format", "json").out)["trained"] == ["demo"]


@pytest.mark.parametrize("offer", host.discover().of(EncoderSpec), ids=lambda offer: offer.spec.name)
def test_what_show_says_a_preset_changes_makes_that_preset_when_it_is_set(offer: host.Offer[EncoderSpec]) -> None:
    kind = host.encoder_class(offer)
    for name, preset in kind.presets.items():
        changes = settings.changed(kind.Settings, preset)
        assert settings.choose({"none": kind.Settings()}, "none", changes, offer.spec.name) == preset, name


@pytest.mark.usefixtures("installed")
def test_show_says_what_is_wrong_with_an_encoder_that_cannot_be_used(simrec: Command) -> None:
    assert "encoder 'no-module' (no-module 1.2.3) cannot be used" in simrec("plugins", "show", "no-module").error


# The hooks.

HOOKS = {
    name: value
    for name, value in vars(hookspecs).items()
    if inspect.isfunction(value) and hasattr(value, f"{host.GROUP}_spec")
}


def example(hook: str) -> str:
    """The code of a hook's docstring's example."""
    return "".join(part.source for part in doctest.DocTestParser().get_examples(HOOKS[hook].__doc__ or ""))


def test_the_host_asks_every_hook() -> None:
    assert set(host.HOOKS) == set(HOOKS) >= {"simrec_encoders", "simrec_sources"}


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook != "simrec_engines"])  # local files need none
def test_every_hook_is_used_by_a_built_in_plugin(hook: str) -> None:
    found = host.discover()
    assert any(offer.provider.startswith("simrec ") for offer in found.of(host.HOOKS[hook]))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_every_hook_is_a_plugin_that_is_found(
    simrec: Command, hook: str, tmp_path: Path, install_site: Callable[[Path], None]
) -> None:
    folder = folder_made(tmp_path / "site")
    install(folder, "my-package", example(hook))
    install_site(folder)
    done = simrec("plugins", "list", "--format", "json")
    assert done.status == 0, done.out
    (offer,) = [o for o in json.loads(done.out)["plugins"] if o["distribution"] == "my-package 1.2.3"]
    assert offer["kind"] == host.HOOKS[hook].kind
    assert offer["factory"].startswith("my_package.")


def test_a_spec_whose_name_could_not_be_typed_is_refused() -> None:
    for name in ("", "our shop", "our:shop", "-x", "../x"):
        with pytest.raises(PluginError, match="a name is made of"):
            SourceSpec(name, "", "a:b")


def test_folders_and_fashion_mnist_come_through_the_hook(photos: Path) -> None:
    sources = {offer.spec.name: offer for offer in host.discover().of(SourceSpec)}
    for name, text, count in (("folder", str(photos), 40), ("fashion-mnist", "small-test", 2000)):
        source = host.imported(sources[name])(text, data_dir=None, notice=print)
        assert len(list(source.entries())) == count
        batch = source.read(list(source.entries())[:3], ImageSpec())
        assert batch.images.shape == (3, 28, 28, 1)
        assert batch.images.dtype == np.uint8


def test_a_plugin_that_imports_from_where_a_module_was_is_told_where_it_is() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        import_module("simrec.autoencoder")
    assert "it is simrec.learning.autoencoder now: change the plugin's import" in reason(raised.value)
    for place in MOVED.values():
        assert import_module(place)

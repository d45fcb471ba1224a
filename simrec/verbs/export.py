"""Exports codes for other programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from simrec.catalogue import LocalCatalogue, tables
from simrec.catalogue.fields import Kind, array
from simrec.contracts import (
    API,
    Batch,
    CodeDtype,
    Codes,
    Entry,
    ExporterSpec,
    ExportRecord,
    Images,
    Notice,
    Origin,
    Value,
)
from simrec.contracts.exporters import RECORD
from simrec.errors import DataError, PluginError, RequestError, suggestion
from simrec.exporters.coding import Coding, Largest
from simrec.exporters.content import Content
from simrec.exporters.spool import spooled
from simrec.faults import blamed_on
from simrec.recommender import Recommender, silent
from simrec.sources.load import LeftOut, at_once, open_source
from simrec.streams import ahead, chunks

if TYPE_CHECKING:
    from simrec.host import Offer

BATCH = 1 << 20
"""About how many bytes of codes (float32) a batch holds."""

ROWS = 1 << 14
"""Maximum rows of a batch."""

AHEAD = 16
"""Maximum number of batches that are prepared while an exporter writes."""

PREVIEWS = 1 << 10
"""Maximum rows of a batch with previews."""

ENTRIES = 1 << 10
"""How many entries of a source are filtered at a time."""


@dataclass(frozen=True)
class Wishes:
    """What an export should be like.

    form: the exporter's name; by default the file's ending decides. where: only items that match this filter. columns:
    those to write, in that order; by default all but `preview`. normalize: whether to divide codes by their lengths.
    dtype: the type of the codes' numbers. text: whether a code becomes one text, "[0.1,0.2]", as pgvector reads it.
    """

    form: str | None = None
    where: str | None = None
    columns: Sequence[str] | None = None
    normalize: bool = False
    dtype: CodeDtype = "float32"
    text: bool = False


def export(
    recommender: Recommender,
    target: Path | BinaryIO,
    wishes: Wishes | None = None,
    *,
    progress: Callable[[str, int, int], None] = silent,
) -> list[Path]:
    """Writes a catalogue's codes with their items, as a stream. Returns the files.

    target: a file, or an open binary stream, for which the default format is jsonl. progress: called with a stage, how
    many items are done, and of how many.

    Raises RequestError for an ending that no exporter writes, for wishes that can't be met and if nothing matches,
    StoreError if it can't be written; an existing file then stays.
    """
    wishes = wishes or Wishes()
    offer, catalogue = _exporter(target, wishes, "jsonl"), recommender.catalogue
    if isinstance(target, Path):
        _check_is_no_source(target, recommender)
    table = _Table(offer, wishes, tuple(catalogue.fields))
    count = len(catalogue) if wishes.where is None else catalogue.matching(wishes.where)
    batches = catalogue.record_batches(table.columns, wishes.where, table.rows(recommender))
    exact = count if isinstance(catalogue, LocalCatalogue) else None  # a database goes on changing
    return _written(recommender, target, table, catalogue.kinds, batches, exact, count, progress)


def encode(
    recommender: Recommender,
    source: str,
    target: Path | BinaryIO,
    wishes: Wishes | None = None,
    *,
    data_dir: Path | None = None,
    progress: Callable[[str, int, int], None] = silent,
    notice: Notice = silent,
) -> list[Path]:
    """Writes the codes of a source's pictures as `export` writes a catalogue's; the default format of a stream is npy.

    Its fields are those that the source lists. Raises DataError if nothing in the source can be read, and what `export`
    raises.
    """
    wishes = wishes or Wishes()
    encoded = _Encoded(recommender, source, data_dir, progress, notice)
    table = _Table(_exporter(target, wishes, "npy"), wishes, tuple(encoded.kinds))
    batches = encoded.record_batches(table.columns, wishes.where, table.rows(recommender))
    return _written(recommender, target, table, encoded.kinds, batches, None, encoded.total, silent)


def inputs(
    recommender: Recommender, source: str, most: int, *, data_dir: Path | None = None, notice: Notice = silent
) -> tuple[Images, list[str]]:
    """The encoder's images (n, h, w, c) of the first pictures of a source, n at most `most`, and their ids.

    Raises DataError if none of these pictures can be read.
    """
    opened = open_source(source, data_dir=data_dir, notice=notice)
    batch = opened.read(list(islice(opened.entries(), most)), recommender.manifest.encoder.input)
    if not batch.entries:
        raise DataError(f"{opened.name}: none of its first pictures can be read: {batch.errors[0][1]}")
    return batch.images, [entry.id for entry in batch.entries]


def _check_is_no_source(target: Path, recommender: Recommender) -> None:
    """Raises RequestError if the catalogue is made from that very file."""
    record = recommender.manifest.catalogue
    lists = [Path(one.name.removeprefix("list:")).resolve() for one in record.sources] if record else []
    if target.resolve() in lists:
        raise RequestError(f"{target}: {recommender.name} is made from this list: name another file")


def _exporter(target: Path | BinaryIO, wishes: Wishes, default: str) -> Offer[ExporterSpec]:
    """The exporter for the named format, for the file's ending, or for a stream's default format."""
    from simrec import host

    installed = host.discover()
    offers = installed.of(ExporterSpec)
    if isinstance(target, Path) and wishes.form is None:
        name = target.name.lower()
        matching = [offer for offer in offers if name.endswith(offer.spec.endings or ("\0",))]
        if not matching:
            endings = ", ".join(sorted({ending for offer in offers for ending in offer.spec.endings}))
            raise RequestError(f"{target}: no exporter writes files with that ending: name one that ends in {endings}")
        offer = max(matching, key=lambda one: max(len(end) for end in one.spec.endings if name.endswith(end)))
    else:
        offer = installed.find(ExporterSpec, wishes.form or default)
    spec = offer.spec
    if not isinstance(target, Path) and not spec.streams:
        raise RequestError(f"{spec.name}: can't be written to standard output: name a file with -o")
    if wishes.dtype not in spec.dtypes:
        raise RequestError(f"{spec.name}: can't hold {wishes.dtype}: its codes are {' or '.join(spec.dtypes)}")
    if wishes.text and not spec.texts:
        others = ", ".join(sorted(one.spec.name for one in offers if one.spec.texts))
        raise RequestError(f"{spec.name}: can't hold codes as text: write {others}")
    return offer


class _Table:
    """The columns of an export, and the exporter that gets them.

    columns: each column's name and its field, None for an item's own: see `record_batches`.
    """

    def __init__(self, offer: Offer[ExporterSpec], wishes: Wishes, fields: Sequence[str]) -> None:
        self.offer, self.wishes = offer, wishes
        every: dict[str, str | None] = {
            **dict.fromkeys(tables.OWN),
            **tables.named(fields),
            "code": None,
            "preview": None,
        }
        chosen = [name for name in every if name != "preview"] if wishes.columns is None else list(wishes.columns)
        for name in chosen:
            if name not in every:
                raise RequestError(f"--columns: no column {name!r:.100}: {suggestion(name, every)}")
        if twice := [name for name in every if chosen.count(name) > 1]:
            raise RequestError(f"--columns: {twice[0]!r:.100} is there twice: name each column once")
        if "code" not in chosen:
            raise RequestError(
                f"--columns: every export has the codes: write --columns {','.join([*chosen, 'code']):.500} (a .npy "
                f"keeps all other columns in a file of their own, .items.jsonl)"
            )
        if offer.spec.preview and "preview" not in chosen:
            chosen.append("preview")
        self.columns = {name: every[name] for name in chosen}

    def rows(self, recommender: Recommender) -> int:
        """How many rows a batch has."""
        rows = BATCH // (4 * recommender.manifest.encoder.dim)
        return max(1, min(rows, PREVIEWS if "preview" in self.columns else ROWS))


class _Encoded:
    """The items of a source, encoded while they are read."""

    def __init__(
        self, recommender: Recommender, source: str, data_dir: Path | None, progress: Callable[[str, int, int], None],
        notice: Notice,
    ) -> None:  # fmt: skip
        from simrec.catalogue.fields import kinds

        self._recommender, self._progress, self._notice = recommender, progress, notice
        self._opened = open_source(source, data_dir=data_dir, notice=notice)
        self.total = 0
        self.kinds = kinds(self._fields())

    def _fields(self) -> Iterator[Mapping[str, Value]]:
        for entry in self._opened.entries():
            self.total += 1
            yield entry.fields

    def record_batches(self, columns: tables.Columns, where: str | None, rows: int) -> Iterator[Any]:
        """pyarrow RecordBatches of about `rows` rows; the next pictures are read while others are encoded.

        where: only entries that match this filter. Raises DataError if nothing can be read, RequestError if nothing
        matches.
        """
        spec, left_out, done = self._recommender.manifest.encoder.input, LeftOut(self._notice), 0
        total = self.total if where is None else 0
        entries = self._opened.entries() if where is None else self._matching(where)
        read = (self._opened.read(chunk, spec) for chunk in chunks(entries, at_once(spec)))
        with ahead(read) as batches:
            held = _Gathered(columns, tables.schema(columns, self.kinds, self._recommender.manifest.encoder.dim))
            for batch in batches:
                left_out.add(batch.errors)
                done += len(batch.entries)
                self._progress("encoding", done + left_out.count, total)
                if batch.entries:
                    held.add(batch, self._recommender.encode(batch.images))
                if len(held) >= rows:
                    yield held.taken()
            if len(held):
                yield held.taken()
        left_out.end()
        if not done + left_out.count:
            raise RequestError(f"{self._opened.name}: no item matches {where!r:.200}: widen the filter")
        if not done:
            raise DataError(
                f"{self._opened.name}: none of its {left_out.count:,} pictures can be read: {left_out.first}"
            )

    def _matching(self, where: str) -> Iterator[Entry]:
        from simrec.catalogue.where import parsed

        kinds: dict[str, Kind] = {**self.kinds, "id": "string", "label": "string"}
        filter_ = parsed(where, kinds)
        for some in chunks(self._opened.entries(), ENTRIES):

            def column(name: str, some: Sequence[Entry] = some) -> Any:
                own = name in ("id", "label")
                values = [getattr(entry, name) or None if own else entry.fields.get(name) for entry in some]
                return array(values, kinds[name])

            yield from compress(some, filter_.mask(column, len(some)))


class _Gathered:
    """Collects batches of a source into one batch of a table."""

    def __init__(self, columns: tables.Columns, schema: Any) -> None:
        self._columns, self._schema = columns, schema
        self._entries, self._previews, self._codes = list[Entry](), list[bytes](), list[Codes]()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, batch: Batch, codes: Codes) -> None:
        """Adds the entries of a batch, whose codes are (n, dim)."""
        self._entries += batch.entries
        self._previews += batch.previews if "preview" in self._columns else ()
        self._codes.append(codes)

    def taken(self) -> Any:
        """Everything collected so far as one batch; starts over."""
        codes = np.concatenate(self._codes)
        taken = tables.batch(self._entries, self._previews, codes, self._columns, self._schema)
        self._entries, self._previews, self._codes = [], [], []
        return taken


def _written(
    recommender: Recommender, target: Path | BinaryIO, table: _Table, kinds: Mapping[str, Kind | None],
    batches: Iterable[Any], count: int | None, most: int, progress: Callable[[str, int, int], None],
) -> list[Path]:  # fmt: skip
    """Hands batches to the exporter, with their codes in the wished form."""
    import pyarrow as pa

    from simrec import host

    exporter = host.imported(table.offer)
    if "batches" in inspect.signature(exporter).parameters:
        raise PluginError(
            f"{table.offer} was written for contract 2, this simrec has {API}: its {table.offer.spec.factory} must "
            f"take target, table and origin: see simrec.contracts.Exporter"
        )
    spec, wishes, record = table.offer.spec, table.wishes, recommender.manifest.encoder
    unit = wishes.normalize or (spec.unit and record.metric == "cosine")
    schema = tables.schema(table.columns, kinds, record.dim)
    with ExitStack() as closing:
        scale = None
        if wishes.dtype == "int8":  # its scale depends on all codes
            largest = Largest(normalised=unit)
            again = closing.enter_context(spooled(schema, _seen(batches, largest, progress, most)))
            batches, scale = again(), largest.scale
        stream = _Stream(Coding(unit, wishes.dtype, scale, wishes.text), batches, progress, most)
        coming = closing.enter_context(ahead(stream.batches(), AHEAD))
        reader = pa.RecordBatchReader.from_batches(stream.coding.schema(schema), stream.taken(coming))
        said = ExportRecord(
            RECORD, version("simrec"), record.title, record.digest, record.input.digest, record.metric, unit,
            wishes.dtype, scale, record.dim, tuple(table.columns), count,
        )  # fmt: skip
        content = stream.content
        origin = Origin(recommender.name, said, most, lambda: (content.count, content.digest))
        with blamed_on(str(table.offer)):
            try:
                written = exporter(str(target) if isinstance(target, Path) else target, reader, origin)
            except Exception:
                if stream.error is not None:  # a library may have wrapped it in an error of its own
                    raise stream.error from None
                raise
        if not stream.ended:
            raise PluginError(f"{table.offer} has not read the table to its end: fix the plugin")
    is_list = isinstance(written, Sequence) and not isinstance(written, str)
    if not is_list or not all(isinstance(path, str | Path) for path in written):
        raise PluginError(f"{table.offer} returned {written!r:.100}, not a list of files that it wrote: fix the plugin")
    return [Path(path) for path in written]


class _Stream:
    """The batches on their way to an exporter."""

    def __init__(
        self, coding: Coding, batches: Iterable[Any], progress: Callable[[str, int, int], None], most: int
    ) -> None:
        self.coding, self.content, self.ended = coding, Content(), False
        self.error: Exception | None = None
        self._batches, self._progress, self._most = batches, progress, most

    def batches(self) -> Iterator[Any]:
        """The batches, coded and counted."""
        try:
            for batch in self._batches:
                yield self.coding.batch(batch, self.content)
                self._progress("exporting", self.content.count, self._most)
        except Exception as error:
            self.error = error
            raise

    def taken(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches, on the exporter's side."""
        yield from batches
        self.ended = True


def _seen(
    batches: Iterable[Any], largest: Largest, progress: Callable[[str, int, int], None], most: int
) -> Iterator[Any]:
    done = 0
    for batch in batches:
        largest.add(batch)
        done += len(batch)
        progress("reading", done, most)
        yield batch

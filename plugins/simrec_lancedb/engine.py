"""An engine on LanceDB (https://lancedb.github.io/lancedb/): tables in a folder, or on S3.

A table has the columns id, label and source, one for each field, `code` (a list of float32 or float16 of fixed size,
with a length of 1 if the metric is cosine) and what simrec itself needs: length (of the code as the encoder gave it),
stamp, content, origin, preview, digest. Its description is in its schema's metadata, under "simrec".

A push is one commit of Lance, so readers see the table either before or after it. First all rows are written to a file
beside the table, TABLE.simrec-new. Then either

- one merge_insert updates rows, adds others and removes those that match the condition of its "not matched by source".
  It uses no index on the ids: with one, LanceDB updated nothing (lancedb#3177); or
- if the table is new, gets other columns, is replaced or loses many rows, the old rows that stay are written to that
  file too, and everything in the file becomes the next version of the table.

Before a push changes the table it notes in TABLE.simrec-writing which version that is and which files it has. A push
that is killed leaves this note behind: if the table still is that version, the next push deletes all other files.
LanceDB itself would not: it looks only at files that are older than every version it keeps, and old versions are kept
for an hour after another one has replaced them, so that their readers can finish. On S3, where a killed push looks like
one that is still running, LanceDB keeps such leftovers for a week.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import filelock
import lancedb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.index import IvfFlat
from numpy.typing import NDArray

from simrec.contracts import Codes, Item, Notice, Row, Table, Value
from simrec.contracts.engines import Kind
from simrec.contracts.filters import Among, Condition
from simrec.errors import RequestError, StoreError
from simrec_lancedb.filters import to_sql

ITEM = ("id", "label", "source", "stamp", "content", "origin")

OWN = (*ITEM, "code", "length", "preview", "digest")
"""Columns that every table has; a field with such a name gets another one."""

TYPES = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string()}

STORAGES = ("s3",)
"""Kinds of object storage, which an address may name instead of a host. Keys come from the environment."""

KEPT = timedelta(hours=1)
"""How long a version is kept after another has replaced it."""

DELAY = timedelta(seconds=1)
"""Maximum time until LanceDB looks at the clock, from which it counts ages."""

PARTS = ("data/", "_deletions/", "_indices/", "_transactions/")
"""The folders of a table whose files its versions refer to."""

READ = 1000
"""How many rows are read at a time."""

MERGED = 10_000
"""Up to so many rows are removed one by one; for more, the table is written again."""

MESSY = 16
"""Maximum number of a table's files before they are joined, and of old versions before they are deleted; each push adds
one of each."""

SMALLEST_INDEXED = 4096
"""Minimum number of rows for an index."""

PROBED = 50
"""How many parts of the index are searched; each has about 4,096 rows."""

UNINDEXED = 20_000
"""Maximum number of rows outside the index, which are compared one by one, before they are added to it."""

_TABLE = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_UNFINISHED = re.compile(r"\.tmp|.*#\d+$")  # LanceDB renames these files, or links them, once they are whole
_PLAIN = re.compile(r"[a-z]\w{0,62}", re.ASCII | re.IGNORECASE)


class Noted(msgspec.Struct, frozen=True):
    """A table before it is changed. version: its number and time, none if it doesn't exist. files: their names."""

    version: tuple[int, str] | None
    files: list[str]


class Lance:
    """A table in LanceDB."""

    def __init__(self, address: str, *, notice: Notice) -> None:
        parts = urlsplit(address)
        self._shown = f"lancedb://{parts.netloc.rpartition('@')[2]}{parts.path}#{parts.fragment}"
        if not _TABLE.fullmatch(parts.fragment):
            raise RequestError(
                f"{self._shown}: which table? Write lancedb:///FOLDER#TABLE, of letters, digits and . _ -"
            )
        if parts.netloc not in ("", *STORAGES) or not parts.path.strip("/") or parts.query:
            raise RequestError(
                f"{self._shown}: write lancedb:///FOLDER#TABLE, the folder from the root on, or "
                f"lancedb://s3/BUCKET/FOLDER#TABLE, with the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        path = unquote(parts.path)
        self._folder = None if parts.netloc else Path(path)
        self._place = f"{parts.netloc}:/{path}" if parts.netloc else path
        self._name, self._notice = parts.fragment, notice
        self._lock = threading.Lock()
        self._connection: Any = None

    @property
    def table(self) -> Table | None:
        """See `simrec.contracts.Engine`."""
        with self._explained():
            opened = self._opened()
            return None if opened is None else self._says(opened)

    def __len__(self) -> int:
        with self._explained():
            return int(self._there()[0].count_rows())

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """See `simrec.contracts.Engine`. If the index gives fewer than n, all rows that match are compared."""
        with self._explained():
            opened, table = self._there()
            condition = None if where is None else _condition(where, table)
            columns, cosine = _columns(table), table.metric == "cosine"
            nearest = []
            for code in _comparable(codes, cosine):
                rows: list[dict[str, Any]] = []
                for without_index in (False, True) if table.approximate and not exact else (True,):
                    ask = opened.search(code, vector_column_name="code").distance_type("dot" if cosine else "l2")
                    ask = ask.select([*ITEM, *columns.values(), "_distance"]).limit(n)
                    ask = ask.bypass_vector_index() if without_index else ask.nprobes(PROBED)
                    rows = (ask if condition is None else ask.where(condition)).to_arrow().to_pylist()
                    if len(rows) == n:
                        break
                distances = [max(0.0, row["_distance"]) for row in rows]
                nearest.append(
                    [
                        (_item(row, columns), distance if cosine else distance**0.5)
                        for row, distance in zip(rows, distances, strict=True)
                    ]
                )
        return nearest

    def count(self, where: Condition) -> int:
        """See `simrec.contracts.Engine`."""
        with self._explained():
            opened, table = self._there()
            return int(opened.count_rows(_condition(where, table)))

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """See `simrec.contracts.Engine`."""
        with self._explained():
            opened, table = self._there()
            conditions = [] if where is None else [_condition(where, table)]
            for name, wanted in (("id", ids), ("content", contents)):
                if wanted is not None:
                    conditions.append(_among(name, wanted))
            ask = opened.search().select(["id"]).with_row_id(True)
            matches = (ask.where(" AND ".join(conditions)) if conditions else ask).to_arrow()
            numbers = matches["_rowid"].take(pc.sort_indices(matches["id"])).to_numpy()
            columns = _columns(table)
            names = [*ITEM, *columns.values(), "length", "digest", *(["preview"] if previews else [])]
            none = np.empty((READ, 0), np.float32)
            for start in range(0, len(numbers), READ):
                ask = opened.take_row_ids(numbers[start : start + READ].tolist())
                some = ask.select([*names, "code"] if codes else names).to_arrow()
                some = some.take(pc.sort_indices(some["id"]))  # LanceDB gives them in the order of their numbers
                yield [
                    Row(_item(row, columns), code, row["length"], row.get("preview") or b"", row["digest"])
                    for row, code in zip(
                        some.select(names).to_pylist(), _codes(some["code"], table.dim) if codes else none, strict=False
                    )
                ]

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `simrec.contracts.Engine`."""
        with self._explained():
            for batch in self._there()[0].search().select(["id", "digest"]).to_batches():
                yield from zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True)

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """See `simrec.contracts.Engine`."""
        with self._alone() as folder:
            staged, writing = folder / f"{self._name}.simrec-new", folder / f"{self._name}.simrec-writing"
            with self._explained():
                opened = self._opened()
                before = None if opened is None or replace else self._says(opened)
                interrupted = writing.exists()
                if interrupted:
                    self._undo(writing, opened)
            try:
                gone, whole = self._stage(staged, table, rows, removed, opened, before)
                with self._explained():
                    self._note(writing, opened)
                    opened = self._commit(staged, opened, gone, whole)
            finally:
                staged.unlink(missing_ok=True)
            try:
                self._tidy(opened, table, whole or interrupted, writing)
                writing.unlink(missing_ok=True)
            except (RuntimeError, ValueError, OSError) as error:
                self._notice(
                    f"{self._shown}: all is written, but not cleared up ({_first(error)}): the next push will do that."
                )

    def close(self) -> None:
        """See `simrec.contracts.Engine`."""
        with self._lock:
            self._connection = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns whatever goes wrong into a StoreError of one line."""
        try:
            yield
        except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
            said = _first(error)
            remedy = "make room there" if "No space left" in str(error) else "check that you may read and write there"
            raise StoreError(f"{self._shown}: {said}: {remedy}") from error

    def _database(self) -> Any:
        with self._lock:
            if self._connection is None:
                self._connection = lancedb.connect(self._place)
            return self._connection

    def _opened(self) -> Any:
        """The table as it is now, which doesn't change while it is used; None if there is none."""
        if self._folder is not None and not (self._folder / f"{self._name}.lance").is_dir():
            return None  # LanceDB would make the folder
        try:
            return self._database().open_table(self._name)
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise

    def _there(self) -> tuple[Any, Table]:
        opened = self._opened()
        if opened is None:
            raise StoreError(f"{self._shown}: there is no such table: 'simrec index push' makes it")
        table = self._says(opened)
        for name in _schema(table).names:
            if name not in opened.schema.names:
                raise StoreError(
                    f"{self._shown}: the column {name!r} is gone: "
                    f"'simrec index push NAME ADDRESS --replace' makes the table again"
                )
        return opened, table

    def _says(self, opened: Any) -> Table:
        """A table's description. Raises StoreError if simrec didn't make the table."""
        metadata = opened.schema.metadata or {}
        try:
            says = json.loads(metadata[b"simrec"])
            if says.pop("simrec") != 1:
                raise ValueError("a newer simrec made it")
            if b"embedding_functions" in metadata:
                raise ValueError("LanceDB would run what they name")
            return msgspec.convert(says, Table)
        except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            raise StoreError(f"{self._shown}: simrec didn't make that table: name another one") from error

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """A folder for the files of a push; if the table is in a folder, nobody else can push in the block."""
        if self._folder is None:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        with self._explained():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._folder / f"{self._name}.simrec-lock")
            lock.acquire()
        try:
            yield self._folder
        finally:
            lock.release()

    def _note(self, path: Path, opened: Any) -> None:
        """Notes which version the table is, and which files it has."""
        if self._folder is not None:
            new = path.with_suffix(".simrec-note")
            new.write_bytes(msgspec.json.encode(Noted(_version(opened), sorted(self._files()))))
            new.replace(path)

    def _undo(self, path: Path, opened: Any) -> None:
        """Deletes what a killed push wrote without making a version of it; path: its note."""
        try:
            noted = msgspec.json.decode(path.read_bytes(), type=Noted)
        except msgspec.DecodeError:
            return  # an older simrec's
        if noted.version == _version(opened):
            for name, one in self._files().items():
                if name not in noted.files:
                    one.unlink()

    def _files(self) -> dict[str, Path]:
        """The files that versions of the table refer to, and those that are being written, by their names in it."""
        assert self._folder is not None
        table = self._folder / f"{self._name}.lance"
        files = {path.relative_to(table).as_posix(): path for path in table.rglob("*") if path.is_file()}
        return {
            name: path
            for name, path in files.items()
            if (name.startswith(PARTS) or _UNFINISHED.match(path.name)) and _unicode(name)  # all of LanceDB's are
        }

    def _stage(
        self, path: Path, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], opened: Any,
        before: Table | None,
    ) -> tuple[set[str], bool]:  # fmt: skip
        """Writes rows to a file, and those that stay if the whole table is written again. Returns the ids to remove,
        and whether it is written again.
        """
        written: set[str] = set()
        with self._explained():
            file = pa.OSFile(str(path), "wb")
        with file, pa.ipc.new_stream(file, _schema(table)) as writer:
            for some in rows:
                batch = self._batch(some, table)
                with self._explained():
                    writer.write_batch(batch)
                written |= {row.item.id for row in some}
            gone = set(removed) - written
            whole = before != table or len(gone) > MERGED
            if before is not None and whole:
                with self._explained():
                    for batch in _staying(opened, before, table, written | gone):
                        writer.write_batch(batch)
        return gone, whole

    def _batch(self, rows: Sequence[Row], table: Table) -> pa.RecordBatch:
        columns: dict[str, list[Any]] = {name: [getattr(row.item, name) for row in rows] for name in ITEM}
        columns["label"] = [label or None for label in columns["label"]]
        for field, column in _columns(table).items():
            columns[column] = [row.item.fields.get(field) for row in rows]
        for name in ("length", "preview", "digest"):
            columns[name] = [getattr(row, name) for row in rows]
        try:
            return _record(columns, np.array([row.code for row in rows], np.float32), table)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            for row in rows if len(rows) > 1 else ():
                self._batch([row], table)
            raise RequestError(
                f"{self._shown}: item {rows[0].item.id!r:.100}: LanceDB can't keep it ({_first(error)}): rename it"
            ) from error

    def _commit(self, path: Path, opened: Any, gone: Collection[str], whole: bool) -> Any:
        """Makes the next version of the table from a file of rows."""
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as rows:
            if whole:
                mode = "create" if opened is None else "overwrite"
                return self._database().create_table(self._name, rows, mode=mode)
            merge = opened.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.when_not_matched_by_source_delete(_among("id", gone)).use_index(False).execute(rows)
            return opened

    def _tidy(self, opened: Any, table: Table, now: bool, writing: Path) -> None:
        """Makes the index, and joins and deletes files, if there is enough to do or `now` is true."""
        self._note(writing, opened)
        index = next((index for index in opened.list_indices() if index.columns == ["code"]), None)
        if table.approximate and index is None and opened.count_rows() >= SMALLEST_INDEXED:
            opened.create_index("code", config=IvfFlat(distance_type="dot" if table.metric == "cosine" else "l2"))
        elif index is not None and (index.num_unindexed_rows or 0) > UNINDEXED:
            now = True
        since = self._since(opened)
        old = sum(version["timestamp"] < since for version in opened.list_versions())
        if now or old >= MESSY or opened.stats()["fragment_stats"]["num_fragments"] > MESSY:
            self._note(writing, opened)
            opened.optimize()
            age = datetime.now() - self._since(opened) + DELAY
            opened.optimize(cleanup_older_than=age, delete_unverified=self._folder is not None)

    def _since(self, opened: Any) -> datetime:
        """When the oldest version to keep was made: older ones were replaced long enough ago."""
        made = [version["timestamp"] for version in opened.list_versions()]
        kept: datetime = max((one for one in made if one <= datetime.now() - KEPT), default=min(made))
        return kept


def _version(opened: Any) -> tuple[int, str] | None:
    """Which version a table is: its number, and when it was made."""
    if opened is None:
        return None
    latest = max(opened.list_versions(), key=lambda version: version["version"])
    return int(latest["version"]), str(latest["timestamp"])


def _columns(table: Table) -> dict[str, str]:
    """The columns of the fields. LanceDB ignores case in names, and gives dots in them a meaning."""
    names: dict[str, str] = {}
    taken = set(OWN)
    for number, field in enumerate(table.fields):
        plain = _PLAIN.fullmatch(field) and field.lower() not in taken and not field.lower().startswith("field_")
        names[field] = field if plain else f"field_{number}"
        taken.add(names[field].lower())
    return names


def _schema(table: Table) -> pa.Schema:
    says = json.dumps({"simrec": 1, **asdict(table)})
    texts = {name: pa.string() for name in ITEM}
    fields = {column: TYPES[table.fields[field]] for field, column in _columns(table).items()}
    number = pa.float16() if table.dtype == "float16" else pa.float32()
    own = {"code": pa.list_(number, table.dim), "length": pa.float64(), "preview": pa.binary(), "digest": pa.string()}
    columns = [pa.field(name, type_, nullable=name != "id") for name, type_ in {**texts, **fields, **own}.items()]
    return pa.schema(columns, {"simrec": says})


def _record(columns: dict[str, list[Any]], codes: NDArray[np.float32], table: Table) -> pa.RecordBatch:
    """Rows in the table's types. codes: (n, dim)."""
    schema, arrays = _schema(table), []
    for column in schema:
        if column.name == "code":
            numbers = np.ascontiguousarray(codes, "f2" if table.dtype == "float16" else "f4").ravel()
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(numbers), table.dim))
        else:
            values = columns[column.name]
            if column.type == pa.float64():
                values = [None if value is None else value + 0.0 for value in values]  # no -0.0: see filters.py
            arrays.append(pa.array(values, column.type))
    return pa.record_batch(arrays, schema)


def _staying(opened: Any, before: Table, table: Table, without: Collection[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a table except those ids, in another table's types."""
    makers: dict[Kind, Callable[[Any], Value]] = {"int64": int, "double": float, "string": str}
    held = _columns(before)
    for batch in opened.search().to_batches():
        batch = batch.filter(pa.array([id_ not in without for id_ in batch["id"].to_pylist()], pa.bool_()))
        columns = {name: batch[name].to_pylist() for name in (*ITEM, "length", "preview", "digest")}
        for field, column in _columns(table).items():
            values = batch[held[field]].to_pylist() if field in held else [None] * len(batch)
            make = makers[table.fields[field]]
            columns[column] = [None if value is None else make(value) for value in values]
        yield _record(columns, _codes(batch["code"], before.dim), table)


def _condition(where: Condition, table: Table) -> str:
    own: dict[str, Kind] = {"id": "string", "label": "string"}
    return to_sql(where, {**_columns(table), "id": "id", "label": "label"}, {**table.fields, **own})


def _among(column: str, values: Iterable[str]) -> str:
    """A condition that finds rows with these values."""
    there = tuple(value for value in values if _unicode(value))  # other texts are in no table
    return to_sql(Among(column, there), {column: column}, {}) if there else "false"


def _unicode(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def _item(row: dict[str, Any], columns: dict[str, str]) -> Item:
    fields = {field: row[column] for field, column in columns.items() if row[column] is not None}
    return Item(**{**{name: row[name] for name in ITEM}, "label": row["label"] or ""}, fields=fields)


def _codes(column: Any, dim: int) -> NDArray[np.float32]:
    """The codes (n, dim) in a column."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    codes: NDArray[np.float32] = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)
    return codes


def _comparable(codes: Codes, cosine: bool) -> Codes:
    if not cosine:
        return codes
    lengths = np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(codes / lengths, np.float32)


def _first(error: BaseException) -> str:
    """What went wrong, in one line, without LanceDB's source location."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r", /\S+\.rs:\d+:\d+", "", said)[:300]

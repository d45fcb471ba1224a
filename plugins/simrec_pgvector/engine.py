"""An engine on PostgreSQL with pgvector (https://github.com/pgvector/pgvector).

A table has the columns id, label and source, one for each field, `code` (vector or halfvec; scaled to length 1 if the
metric is cosine, so that <=>, <#> and <-> agree) and what simrec itself needs: length (of the code as the encoder gave
it), stamp, content, origin, preview, digest. The table's comment holds its description.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, LiteralString, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.copy import QueuedLibpqWriter
from psycopg.pq import Conninfo
from psycopg.types.string import BytesBinaryDumper

from simrec.contracts import Codes, Item, Notice, Row, Table
from simrec.contracts.engines import Kind
from simrec.contracts.filters import Condition
from simrec.errors import RequestError, StoreError
from simrec_pgvector.filters import named, to_sql

OWN = ("id", "label", "source", "code", "length", "stamp", "content", "origin", "preview", "digest")
"""Columns that every table has; a field with such a name gets a column with another name."""

LONGEST_NAME = 63
"""Maximum bytes of a column's name; PostgreSQL cuts longer ones."""

LARGEST = {"float32": 16_000, "float16": 16_000}
LARGEST_INDEXED = {"float32": 2_000, "float16": 4_000}
"""Maximum numbers in a code: for pgvector's types, and for its index."""

TYPES = {"int64": "bigint", "double": "double precision", "string": 'text COLLATE "C"'}

READ = 1000
"""How many rows are read at a time."""

LOOKED_AT = 200
"""How many items, at least, the index looks at for an answer (hnsw.ef_search): more miss less, and take longer."""

SECRETS = {option.keyword.decode() for option in Conninfo.get_defaults() if option.dispchar == b"*"}
"""Settings in an address that are passwords."""

CONNECTIONS = 8
"""How many idle connections are kept."""

IDLE = 1.0
"""Seconds after which an idle connection is tested before it is used."""

Idle: TypeAlias = "queue.LifoQueue[tuple[psycopg.Connection[Any], float]]"
"""Idle connections, and since when they are idle."""

_TABLE = re.compile(r"[A-Za-z_]\w{0,62}(\.[A-Za-z_]\w{0,62})?", re.ASCII)


class Postgres:
    """A table in PostgreSQL."""

    def __init__(self, address: str, *, notice: Notice) -> None:
        parts = urlsplit(address)
        if not _TABLE.fullmatch(parts.fragment):
            raise RequestError(
                f"{_shown(address)}: which table? Write postgresql://USER@HOST/DATABASE#TABLE (letters, digits and _)"
            )
        self._address, self._shown = address.partition("#")[0], _shown(address)
        self._table, self._notice = sql.Identifier(*parts.fragment.split(".")), notice
        self._name = parts.fragment
        self._all_idle: dict[int, Idle] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._all_idle)
        self._known: tuple[Table | None] | None = None
        with self._connected() as connection:
            version = connection.info.server_version
        # PostgreSQL 17 has a collation that knows the capitals of all alphabets, the same on every system; for it 'İ'
        # is 'i', and 'ſ' isn't 's'. PostgreSQL 18 has a function that folds case as filters do elsewhere.
        self._folding = "casefold" if version >= 180_000 else "pg_c_utf8" if version >= 170_000 else "und-x-icu"

    @property
    def table(self) -> Table | None:
        """See `simrec.contracts.Engine`."""
        with self._lock:
            if self._known is None:
                with self._connected() as connection:
                    self._known = (self._read_table(connection),)
            return self._known[0]

    def __len__(self) -> int:
        with self._connected() as connection:
            (count,) = _one(connection.execute(self._sql("SELECT count(*) FROM {table}")))
        return int(count)

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """See `simrec.contracts.Engine`. With an index, pgvector goes on until it has found n rows that match; if it
        gives up before, all matching rows are compared.
        """
        table = self._there()
        cosine = table.metric == "cosine"
        nearest = []
        with self._connected() as connection:
            condition, values = self._condition(where, table)
            ask = self._sql(
                "SELECT {columns}, code {operator} %s AS distance FROM {table} WHERE {condition} "
                "ORDER BY distance LIMIT %s",
                columns=self._columns(table), operator=sql.SQL("<#>" if cosine else "<->"), condition=condition,
            )  # fmt: skip
            for code in _comparable(codes, cosine):
                question = (_vector(code, table), *values, n)
                rows: list[tuple[Any, ...]] = []
                if table.approximate and not exact:
                    rows = connection.execute(ask, question, prepare=True, binary=True).fetchall()
                if len(rows) < n:
                    with self._all_compared(connection, table):
                        rows = connection.execute(ask, question, prepare=True, binary=True).fetchall()
                one = 1.0 if cosine else 0.0
                nearest.append([(self._item(row, table), max(0.0, one + row[-1])) for row in rows])
        return nearest

    def count(self, where: Condition) -> int:
        """See `simrec.contracts.Engine`."""
        condition, values = self._condition(where, self._there())
        ask = self._sql("SELECT count(*) FROM {table} WHERE {condition}", condition=condition)
        with self._connected() as connection:
            return int(_one(connection.execute(ask, values))[0])

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """See `simrec.contracts.Engine`."""
        table = self._there()
        condition, values = self._condition(where, table)
        for name, wanted in (("id", ids), ("content", contents)):
            if wanted is not None:
                condition = sql.SQL("{} AND {} = ANY(%s)").format(condition, named(name))
                values.append([one for one in wanted if "\0" not in one])
        ask = self._sql(
            "SELECT {columns}, {code}, length, {preview}, digest FROM {table} WHERE {condition} ORDER BY id",
            columns=self._columns(table), condition=condition,
            code=sql.SQL("code" if codes else "NULL"), preview=sql.SQL("preview" if previews else "NULL"),
        )  # fmt: skip
        with (
            self._connected() as connection,
            connection.transaction(),
            connection.cursor("rows", binary=True) as cursor,
        ):
            cursor.itersize = READ
            cursor.execute(ask, values)
            while some := cursor.fetchmany(READ):
                yield [self._row(row, table) for row in some]

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `simrec.contracts.Engine`."""
        with (
            self._connected() as connection,
            connection.transaction(),
            connection.cursor("digests", binary=True) as cursor,
        ):
            cursor.itersize = 10 * READ
            cursor.execute(self._sql("SELECT id, digest FROM {table}"))
            yield from cursor

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """See `simrec.contracts.Engine`."""
        self._check(table)
        with self._lock:
            self._known = None
        with self._connected() as connection, connection.transaction():
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except psycopg.Error as error:
                raise StoreError(
                    f"{self._shown}: the extension pgvector is missing ({_first(error)}): install it there"
                ) from error
            register_vector(connection)
            # Others can read meanwhile; a second push waits.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._name,))
            before = self._read_table(connection, others=replace)
            new = before is None or replace
            staged = self._beside("simrec_new") if new else sql.Identifier("simrec_staged")
            if new:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(staged))
            self._create(connection, staged, table, "TABLE" if new else "TEMP TABLE", "" if new else " ON COMMIT DROP")
            if new:  # the server fills this index while it waits for rows
                connection.execute(sql.SQL("CREATE INDEX ON {} (content)").format(staged))
            self._fill(connection, staged, table, rows)
            if new:
                self._take_place(connection, staged, table, removed)
            else:
                assert before is not None
                self._remove(connection, removed)
                self._alter(connection, staged, before, table)
                self._merge(connection, staged, table)
            self._index(connection, None if new else before, table)
            says = json.dumps({"simrec": 1, **asdict(table)}, ensure_ascii=False)
            connection.execute(self._sql("COMMENT ON TABLE {table} IS {says}", says=sql.Literal(says)))

    def close(self) -> None:
        """See `simrec.contracts.Engine`."""
        _close(self._all_idle)

    @property
    def _idle(self) -> Idle:
        """This process's idle connections: a forked one must neither use nor close those of its parent."""
        return self._all_idle.setdefault(os.getpid(), queue.LifoQueue())

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for this thread. Turns database errors into one-line StoreErrors."""
        try:
            connection = self._connection()
            try:
                yield connection
            finally:
                if connection.broken or self._idle.qsize() >= CONNECTIONS:
                    connection.close()
                else:
                    self._idle.put((connection, time.monotonic()))
        except psycopg.errors.UndefinedTable as error:
            raise StoreError(f"{self._shown}: the table is gone: 'simrec index push' makes it again") from error
        except psycopg.errors.UndefinedColumn as error:
            raise StoreError(
                f"{self._shown}: {_first(error)}: 'simrec index push NAME ADDRESS --replace' makes the table again"
            ) from error
        except psycopg.OperationalError as error:
            raise StoreError(f"{self._shown}: {_first(error)}: check that it runs, and PGPASSWORD") from error
        except (psycopg.Error, UnicodeEncodeError) as error:
            raise StoreError(f"{self._shown}: {_first(error)}") from error

    def _connection(self) -> psycopg.Connection[Any]:
        while True:
            try:
                connection, since = self._idle.get_nowait()
            except queue.Empty:
                break
            try:
                if time.monotonic() > since + IDLE:
                    connection.execute("")  # fails if the server has closed it
                return connection
            except psycopg.OperationalError:
                connection.close()
        connection = psycopg.connect(self._address, autocommit=True, connect_timeout=10, application_name="simrec")
        connection.execute("SET hnsw.iterative_scan = strict_order")
        connection.execute(f"SET hnsw.ef_search = {LOOKED_AT}")
        if _one(connection.execute("SELECT count(*) FROM pg_type WHERE typname = 'halfvec'"))[0]:
            register_vector(connection)
        return connection

    @contextmanager
    def _all_compared(self, connection: psycopg.Connection[Any], table: Table) -> Iterator[None]:
        """Makes PostgreSQL compare all rows, without the index, in the block."""
        if not table.approximate:
            yield
            return
        with connection.transaction():
            connection.execute("SET LOCAL enable_indexscan = off")
            yield

    def _sql(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(table=self._table, **parts)

    def _there(self) -> Table:
        table = self.table
        if table is None:
            raise StoreError(f"{self._shown}: there is no such table: 'simrec index push' makes it")
        return table

    def _read_table(self, connection: psycopg.Connection[Any], *, others: bool = False) -> Table | None:
        """What the table says of itself. others: a table that simrec hasn't made is none."""
        row = connection.execute(
            "SELECT obj_description(oid) FROM pg_class WHERE oid = to_regclass(%s)",
            (self._table.as_string(connection),),
        ).fetchone()
        if row is None:
            return None
        try:
            says = json.loads(row[0] or "")
            if says.pop("simrec") != 1:
                raise ValueError("a newer simrec made it")
            return Table(**says)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if others:
                return None
            raise StoreError(f"{self._shown}: simrec didn't make that table: name another one") from error

    def _condition(self, where: Condition | None, table: Table) -> tuple[sql.Composable, list[Any]]:
        kinds: dict[str, Kind] = {**table.fields, "id": "string", "label": "string"}
        return (sql.SQL("TRUE"), []) if where is None else to_sql(where, _columns(table), kinds, self._folding)

    def _columns(self, table: Table) -> sql.Composable:
        names = ["id", "label", "source", "stamp", "content", "origin", *(_column(field) for field in table.fields)]
        return sql.SQL(", ").join(map(named, names))

    def _item(self, row: Sequence[Any], table: Table) -> Item:
        id_, label, source, stamp, content, origin = row[:6]
        values = zip(table.fields, row[6:], strict=False)
        fields = {name: value for name, value in values if value is not None}
        return Item(id_, source, label or "", fields, stamp, content, origin)

    def _row(self, row: Sequence[Any], table: Table) -> Row:
        code, length, preview, digest = row[-4:]
        numbers = np.empty(0, np.float32) if code is None else _numbers(code)
        return Row(self._item(row, table), numbers, length, preview or b"", digest)

    def _check(self, table: Table) -> None:
        """Raises RequestError for what PostgreSQL can't store."""
        largest = (LARGEST_INDEXED if table.approximate else LARGEST)[table.dtype]
        if table.dim > largest:
            less = "" if not table.approximate else " with an index: leave out --approximate, or try --dtype float16"
            raise RequestError(f"{self._shown}: pgvector takes codes of at most {largest:,} numbers{less}")
        for field in table.fields:
            if len(_column(field).encode("utf-8", "replace")) > LONGEST_NAME or "\0" in field:
                raise RequestError(
                    f"{self._shown}: the field {field!r:.80} can't be a column: a name has at most {LONGEST_NAME} "
                    f"bytes: shorten it in the source, and build a recommender with another name"
                )
        if len(set(_columns(table).values())) <= len(table.fields):
            raise RequestError(f"{self._shown}: two fields would be the same column: rename one of them")

    def _beside(self, name: str) -> sql.Identifier:
        """A table with another name in the same schema."""
        schema, dot, own = self._name.rpartition(".")
        return sql.Identifier(*([schema] if dot else []), f"{own}_{name}"[-LONGEST_NAME:])

    def _create(
        self, connection: psycopg.Connection[Any], table: sql.Identifier, says: Table, kind: LiteralString,
        end: LiteralString,
    ) -> None:  # fmt: skip
        fields = [
            sql.SQL("{} {}").format(sql.Identifier(_column(field)), sql.SQL(TYPES[held]))
            for field, held in says.fields.items()
        ]
        columns = [
            sql.SQL('id text COLLATE "C" PRIMARY KEY'), sql.SQL('label text COLLATE "C"'), sql.SQL("source text"),
            *fields, sql.SQL("code {}").format(_type(says)),
            sql.SQL("length double precision, stamp text, content text, origin text"),
            sql.SQL("preview bytea, digest text"),
        ]  # fmt: skip
        connection.execute(
            sql.SQL("CREATE " + kind + " {} ({})" + end).format(table, sql.SQL(", ").join(columns))
        )  # fmt: skip

    def _fill(
        self, connection: psycopg.Connection[Any], into: sql.Identifier, table: Table, rows: Iterable[Sequence[Row]]
    ) -> None:
        fields = list(table.fields.items())
        names = [*OWN, *(_column(field) for field, _ in fields)]
        # Codes are declared as bytea and sent in pgvector's own binary form: on the wire both are bytes.
        types = ["text", "text", "text", "bytea", "float8", "text", "text", "text", "bytea", "text"]
        types += [{"int64": "int8", "double": "float8", "string": "text"}[kind] for _, kind in fields]
        ask = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            into, sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with connection.cursor() as cursor:
            cursor.adapters.register_dumper(bytes, BytesBinaryDumper)  # psycopg's fastest
            with cursor.copy(ask, writer=QueuedLibpqWriter(cursor)) as copy:
                copy.set_types(types)
                for some in rows:
                    for row, code in zip(some, _packed(some, table), strict=True):
                        (id_, source, label, held, stamp, content, origin), _, length, preview, digest = row
                        try:
                            copy.write_row(
                                (id_, label or None, source, code, length, stamp, content, origin, preview, digest,
                                 *map(held.get, table.fields))
                            )  # fmt: skip
                        except (psycopg.DataError, UnicodeEncodeError) as error:
                            raise RequestError(
                                f"{self._shown}: item {id_!r:.100}: PostgreSQL can't keep it ({_first(error)}): "
                                f"rename it"
                            ) from error

    def _take_place(
        self, connection: psycopg.Connection[Any], staged: sql.Identifier, table: Table, removed: Iterable[str]
    ) -> None:
        """Replaces the table with the new one."""
        for _ in removed:  # a new table has nothing to remove, but the caller counts on the iteration
            pass
        connection.execute(self._sql("DROP TABLE IF EXISTS {table}"))
        own = sql.Identifier(self._name.rpartition(".")[2])
        connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(staged, own))

    def _remove(self, connection: psycopg.Connection[Any], removed: Iterable[str]) -> None:
        connection.execute("CREATE TEMP TABLE simrec_removed (id text) ON COMMIT DROP")
        with connection.cursor() as cursor, cursor.copy("COPY simrec_removed FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text"])
            for id_ in removed:
                copy.write_row((id_,))
        connection.execute(self._sql("DELETE FROM {table} t USING simrec_removed r WHERE t.id = r.id"))

    def _merge(self, connection: psycopg.Connection[Any], staged: sql.Identifier, table: Table) -> None:
        names = [*OWN, *(_column(field) for field in table.fields)]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        new = sql.SQL(", ").join(
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names if name != "id"
        )
        connection.execute(
            self._sql(
                "INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged} ON CONFLICT (id) DO UPDATE SET {new}",
                columns=columns,
                staged=staged,
                new=new,
            )  # fmt: skip
        )

    def _alter(
        self, connection: psycopg.Connection[Any], staged: sql.Identifier, before: Table, table: Table
    ) -> None:  # fmt: skip
        """Gives the table the columns and types that it should have. staged: the rows that are written next."""
        if before.dtype != table.dtype:
            connection.execute(self._sql("DROP INDEX IF EXISTS {index}", index=self._beside("code")))
            connection.execute(self._sql("ALTER TABLE {table} ALTER code TYPE {type}", type=_type(table)))
        for field, kind in table.fields.items():
            column, type_ = sql.Identifier(_column(field)), sql.SQL(TYPES[kind])
            if field not in before.fields:
                connection.execute(self._sql("ALTER TABLE {table} ADD {column} {type}", column=column, type=type_))
            elif before.fields[field] != kind:
                # Values that are about to be replaced needn't be valid in the new type.
                connection.execute(
                    self._sql(
                        "UPDATE {table} t SET {column} = NULL FROM {staged} s WHERE t.id = s.id",
                        column=column,
                        staged=staged,
                    )
                )
                connection.execute(
                    self._sql(
                        "ALTER TABLE {table} ALTER {column} TYPE {type} USING {column}::{type}",
                        column=column,
                        type=type_,
                    )
                )
        for field in before.fields.keys() - table.fields.keys():
            connection.execute(self._sql("ALTER TABLE {table} DROP {column}", column=sql.Identifier(_column(field))))

    def _index(self, connection: psycopg.Connection[Any], before: Table | None, table: Table) -> None:
        """Creates or drops pgvector's HNSW index, as the table asks for."""
        there = before is not None and before.approximate and before.dtype == table.dtype
        if there and not table.approximate:
            connection.execute(self._sql("DROP INDEX IF EXISTS {index}", index=self._beside("code")))
        if table.approximate and not there:
            operators = "ip" if table.metric == "cosine" else "l2"
            kind = f"{'halfvec' if table.dtype == 'float16' else 'vector'}_{operators}_ops"
            name = sql.Identifier(f"{self._name.rpartition('.')[2]}_code"[-LONGEST_NAME:])
            connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
            connection.execute(
                self._sql("CREATE INDEX {name} ON {table} USING hnsw (code {kind})", name=name, kind=sql.SQL(kind))
            )


def _close(all_idle: dict[int, Idle]) -> None:
    """Closes this process's idle connections."""
    idle = all_idle.get(os.getpid(), queue.LifoQueue())
    with suppress(queue.Empty):
        while True:
            idle.get_nowait()[0].close()


def _shown(address: str) -> str:
    """An address without its secrets."""
    parts = urlsplit(address)
    user, at, place = parts.netloc.rpartition("@")
    settings = [one for one in parse_qsl(parts.query) if one[0] not in SECRETS]
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{place}{parts.path}"
    return f"{shown}{'?' if settings else ''}{urlencode(settings)}#{parts.fragment}"


def _column(field: str) -> str:
    """The column of a field; a field named like one of simrec's own columns gets another name."""
    return f"field_{field}" if field in OWN or field.startswith("field_") else field


def _columns(table: Table) -> dict[str, str]:
    return {**{field: _column(field) for field in table.fields}, "id": "id", "label": "label"}


def _type(table: Table) -> sql.SQL:
    return sql.SQL(f"{'halfvec' if table.dtype == 'float16' else 'vector'}({int(table.dim)})")


def _vector(code: Any, table: Table) -> Any:
    return HalfVector(code) if table.dtype == "float16" else Vector(code)


def _packed(rows: Sequence[Row], table: Table) -> Iterator[bytes]:
    """The rows' codes in pgvector's binary form: the dimension, two unused bytes, the numbers."""
    kind = np.dtype([("dim", ">i2"), ("", ">i2"), ("code", ">f2" if table.dtype == "float16" else ">f4", table.dim)])
    packed = np.zeros(len(rows), kind)
    packed["dim"], packed["code"] = table.dim, [row.code for row in rows]
    data, size = packed.tobytes(), kind.itemsize
    return (data[start : start + size] for start in range(0, len(data), size))


def _numbers(value: Any) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, np.float32)
    return numbers


def _comparable(codes: Codes, cosine: bool) -> Codes:
    if not cosine:
        return codes
    lengths = np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(codes / lengths, np.float32)


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)


def _first(error: BaseException) -> str:
    """An error's first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

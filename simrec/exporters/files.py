"""The files of an export: the named file, or standard output, and the files beside it."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from simrec.contracts import Origin
from simrec.errors import RequestError
from simrec.files import opened, replacing_all, temporary
from simrec.sources.exports import RECORD

ITEMS = ".items.jsonl"
"""The ending of the file beside it for the rows without their codes."""

SHARING = (".npy", ".safetensors", ".faiss")
"""Endings of files that hold only codes: those with the same stem have the same file of items beside them."""

HEAD = 1 << 20
"""How many bytes of an export are searched for its record."""

ROWS = 1 << 13
"""How many rows become Python objects at a time."""


def items_path(target: str) -> Path:
    """The file for the rows of an export without their codes, if its format holds only codes."""
    return Path(target).with_suffix(ITEMS)


def record_path(target: str) -> Path:
    """The file for the `ExportRecord`, if the export's format has no room for it."""
    return Path(f"{target}{RECORD}")


def _owner(target: Path) -> str | None:
    """The name of another export that has the same file for its items, None if there is none.

    Raises RequestError if a file with that name is there that isn't simrec's.
    """
    items = items_path(str(target))
    if not items.exists():
        return None
    others = [path for path in map(target.with_suffix, SHARING) if path != target and path.exists()]
    if owner := next(filter(_has_items, others), None):
        return owner.name
    if not _has_items(target):
        raise RequestError(
            f"{items}: belongs to no {target.name} of simrec's and would be overwritten: move it, or name another file"
        )
    return None


def _has_items(path: Path) -> bool:
    """Whether a file is an export with its items beside it: its record names more columns than the code."""
    for place in (record_path(str(path)), path):
        with suppress(OSError), opened(place) as file:
            head = file.read(HEAD).replace(b"\\", b"")  # safetensors holds the record as a text in its own JSON
            if b'"columns"' in head:
                return b'"columns": ["code"]' not in head
    return False


@contextmanager
def writing(target: str | BinaryIO, *beside: Path, seek: bool = False) -> Iterator[list[IO[bytes]]]:
    """The target and the files beside it, for the block to write; they appear together, only if the block succeeds.

    A stream has no files beside it: what is written to them is dropped. seek: whether the block seeks in the target; a
    stream can't, so it gets everything at the end.
    """
    if isinstance(target, str):
        with replacing_all([Path(target), *beside]) as files:
            yield files
        return
    with ExitStack() as closing:
        nowhere = [closing.enter_context(Path(os.devnull).open("wb")) for _ in beside]
        if not seek:
            yield [target, *nowhere]
        else:
            whole, explained = closing.enter_context(temporary())
            with explained:
                yield [whole, *nowhere]
                whole.seek(0)
            shutil.copyfileobj(whole, target)
        target.flush()


@contextmanager
def arrow_stream(target: str | BinaryIO, file: IO[bytes]) -> Iterator[Any]:
    """The open file of a target, for pyarrow to write to in the block.

    pyarrow opens a file itself, because calling Python's would make it wait for the thread that makes the next batches.
    """
    import pyarrow as pa

    if isinstance(target, str):
        with pa.OSFile(file.name, mode="w") as stream:
            yield stream
    else:
        yield pa.PythonFile(file, mode="w")


def written(target: str | BinaryIO, *beside: Path) -> Sequence[str]:
    """What an exporter returns."""
    return [target, *map(str, beside)] if isinstance(target, str) else []


class Beside:
    """The files beside a file that holds only codes: the other columns as JSON lines, and the record.

    record: whether the record is a file beside it, too, or in the file itself.
    """

    def __init__(self, target: str | BinaryIO, table: Any, *, record: bool = True) -> None:
        self._target, self._record = target, record
        self._others = [name for name in table.schema.names if name != "code"]
        name = target if isinstance(target, str) else "-"
        self._paths = [*([items_path(name)] if self._others else []), *([record_path(name)] if record else [])]

    @contextmanager
    def writing(self, *, seek: bool = False) -> Iterator[tuple[IO[bytes], Callable[[Any], None]]]:
        """The target, and a function that writes the other columns of a pyarrow RecordBatch: see `writing`.

        Raises RequestError if the items would replace others of another export, or a file that isn't simrec's.
        """
        target = Path(self._target) if isinstance(self._target, str) and self._others else None
        owner = _owner(target) if target else None
        with writing(self._target, *self._paths, seek=seek) as (file, *self._files):
            yield file, self._add
            if target and owner and not self._same_items():
                raise RequestError(
                    f"{self._paths[0]}: holds the items of {owner}, which are others: name another file, such as "
                    f"{target.stem}2{target.suffix}"
                )

    def _same_items(self) -> bool:
        """Whether the items are those that were written with another export."""
        self._files[0].flush()
        return filecmp.cmp(self._files[0].name, self._paths[0], shallow=False)

    def _add(self, batch: Any) -> None:
        from simrec.exporters.json_lines import lines

        if self._others:
            rest = batch.select(self._others)
            for start in range(0, len(rest), ROWS):
                self._files[0].write(lines(rest.slice(start, ROWS)))

    def finish(self, origin: Origin) -> Sequence[str]:
        """Writes the record after the last row; returns what an exporter returns."""
        if self._record:
            self._files[-1].write(origin.finished().to_bytes() + b"\n")
        return written(self._target, *self._paths)

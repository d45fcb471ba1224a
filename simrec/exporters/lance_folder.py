"""Lance: a folder that holds a table, with the record in its schema's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from simrec.contracts import ExportRecord, Origin
from simrec.errors import PluginError, RequestError
from simrec.exporters.content import check_schema
from simrec.exporters.reading import missing, parsed, reading, rows_at_once
from simrec.files import replacing_folder

MISSING = "pylance, which reads and writes .lance, is not installed: pip install 'simrec[lance]'"


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.lance`: all columns, the code as a list of fixed size. Raises RequestError if a folder with that name holds
    anything else.
    """
    assert isinstance(target, str)
    lance, folder = _lance(), Path(target)
    if folder.exists() and not (folder / "_versions").is_dir():
        raise RequestError(f"{target}: this folder exists and holds no Lance table: name a new folder")
    with replacing_folder(folder) as staging:
        dataset = lance.write_dataset(table, str(staging), schema=table.schema)
        dataset.update_schema_metadata({"simrec": origin.finished().to_bytes().decode()}, replace=True)
    return [target]


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`; with all its columns."""
    with reading(path):
        schema = _opened(path).schema
        if b"simrec" not in (schema.metadata or {}):
            raise missing(path, "no 'simrec' in its metadata")
        return (record := parsed(schema.metadata[b"simrec"], path)), _rows(path, record)


def _rows(path: str, record: ExportRecord) -> Iterator[Any]:
    with reading(path):
        dataset = _opened(path)
        check_schema(dataset.schema, record)
        if dataset.count_rows() != record.count:
            raise ValueError(f"it has {dataset.count_rows():,} rows, its record says {record.count:,}")
        yield from dataset.to_batches(batch_size=rows_at_once(record))


def _opened(path: str) -> Any:
    """The table in a folder. Raises ValueError if some of its files are elsewhere."""
    if not (Path(path) / "_versions").is_dir():
        raise ValueError("no folder with a Lance table")
    dataset = _lance().dataset(str(Path(path).absolute()))
    files = [file for fragment in dataset.get_fragments() for file in fragment.data_files()]
    if any(file.base_id is not None or Path(file.path).name != file.path for file in files):
        raise ValueError("some of its files lie elsewhere")
    return dataset


def _lance() -> Any:
    try:
        import lance
    except ImportError as error:
        raise PluginError(MISSING) from error
    return lance

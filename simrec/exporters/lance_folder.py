"""Lance: a folder that holds a table, the record in its schema's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from simrec.contracts import Origin
from simrec.errors import PluginError, RequestError
from simrec.files import replacing_folder

MISSING = "pylance, which reads and writes .lance, is not installed: pip install 'simrec[lance]'"


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.lance`: every column, the code as a list of fixed size. Raises RequestError where a folder that holds anything
    else has that name.
    """
    assert isinstance(target, str)
    try:
        import lance
    except ImportError as error:
        raise PluginError(MISSING) from error
    folder = Path(target)
    if folder.exists() and not (folder / "_versions").is_dir():
        raise RequestError(f"{target}: is there and holds no Lance table: name a new folder")
    with replacing_folder(folder) as staging:
        dataset = lance.write_dataset(table, str(staging), schema=table.schema)
        dataset.update_schema_metadata({"simrec": origin.finished().to_bytes().decode()}, replace=True)
    return [target]

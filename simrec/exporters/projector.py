"""TensorBoard's Embedding Projector: vectors and their items as TSV, previews in a sprite sheet, and the config that
`tensorboard --logdir FOLDER` looks for.

TensorBoard shows the first 100,000 rows, and no picture with an edge over 8,192 pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simrec.contracts import ExportRecord, Origin
from simrec.errors import RequestError
from simrec.exporters import reading
from simrec.exporters.content import codes, parts
from simrec.exporters.delimited import numbers
from simrec.exporters.files import record_path, writing, written
from simrec.files import opened
from simrec.streams import chunks

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 100_000
"""How many rows TensorBoard shows."""

EDGE = 8192
"""Maximum edge of a sheet in pixels."""

TILE = 64
"""Maximum edge of a preview in the sheet, in pixels."""

CONFIG = "projector_config.pbtxt"

ESCAPED = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
MEANT = {text: chr(code) for code, text in ESCAPED.items()}
UNESCAPED = re.compile(r"\\[\\tnr]")
"""How characters are written that would end a cell or a line."""


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.tsv`: the codes; beside it the other columns, the previews, the config and the record.

    Raises RequestError if the folder already has another file's config.
    """
    assert isinstance(target, str)
    path = Path(target)
    config, metadata, sprite = (
        path.with_name(CONFIG),
        path.with_suffix(".metadata.tsv"),
        path.with_suffix(".sprite.png"),
    )
    head = f"# simrec: {path.name}\n"
    if config.exists() and not config.read_bytes().startswith(head.encode("utf-8", "surrogateescape")):
        raise RequestError(f"{config}: belongs to another export: name a .tsv in a folder of its own")
    others = [name for name in table.schema.names if name not in ("code", "preview")]
    sheet = _Sheet(min(origin.most, SHOWN))
    beside = [metadata, sprite, config, record_path(target)]
    with writing(target, *beside) as (file, described, drawn, said, record):
        if len(others) > 1:  # TensorBoard expects no header for a single column
            described.write(_lines([others]))
        for batch in parts(table):
            texts, dim = numbers(batch.column("code")), codes(batch).shape[1]
            file.write(_lines(texts[start : start + dim] for start in range(0, len(texts), dim)))
            if others:
                described.write(_lines(zip(*(batch.column(name).to_pylist() for name in others), strict=True)))
            for preview in batch.column("preview").to_pylist():
                sheet.add(preview)
        sheet.image.save(drawn, "PNG", compress_level=3)
        described_by = [("metadata_path", metadata.name)] if others else []
        said.write((head + _config(path, described_by, sprite, sheet.tile)).encode("utf-8", "surrogateescape"))
        record.write(origin.finished().to_bytes() + b"\n")
    return written(target, *beside)


def read(path: str) -> tuple[ExportRecord, Iterator[Any]]:
    """See `ReadExport`."""
    record = reading.beside(path)
    return record, _read_rows(path, record)


def _read_rows(path: str, record: ExportRecord) -> Iterator[Any]:
    import pyarrow as pa

    others = [name for name in record.columns if name not in ("code", "preview")]
    with ExitStack() as closing:
        closing.enter_context(reading.reading(path))
        file = closing.enter_context(opened(Path(path)))
        ids: Iterator[str] | None = None
        if "id" in others:
            ids = _ids(closing.enter_context(opened(_metadata(Path(path)))), others, record)
        for some in chunks(reading.lines(file, record), reading.rows_at_once(record)):
            parts = [line.decode().rstrip("\n").split("\t") for line in some]
            if {len(part) for part in parts} != {record.dim}:
                raise ValueError(f"a code of other than {record.dim} numbers")
            texts = pa.array([text for part in parts for text in part], pa.string())
            some_ids = None if ids is None else list(islice(ids, len(some)))
            if some_ids is not None and len(some_ids) < len(some):
                raise ValueError(f"there are fewer lines in {_metadata(Path(path)).name}")
            yield reading.batch(some_ids, reading.from_texts(texts, record))
        if ids is not None and next(ids, None) is not None:
            raise ValueError(f"there are more lines in {_metadata(Path(path)).name}")


def _ids(file: BinaryIO, others: Sequence[str], record: ExportRecord) -> Iterator[str]:
    lines = reading.lines(file, record)
    if len(others) > 1 and next(lines, b"") != _lines([others]):
        raise ValueError(f"the first line of {_metadata(Path(str(file.name))).name} names other columns")
    place = others.index("id")
    for line in lines:
        cells = line.decode().rstrip("\n").split("\t")
        if len(cells) != len(others):
            raise ValueError(f"a line of other than {len(others)} values in {_metadata(Path(str(file.name))).name}")
        yield UNESCAPED.sub(lambda match: MEANT[match[0]], cells[place])


class _Sheet:
    """A sprite sheet of at most `most` previews, row by row, in tiles as large as the first one's edge."""

    def __init__(self, most: int) -> None:
        self._most, self._across = most, max(1, math.ceil(math.sqrt(most)))
        self.tile, self._count = 1, 0
        self._whole: Image | None = None

    def add(self, preview: bytes) -> None:
        """Adds the next preview in the middle of its tile; one that can't be decoded stays white."""
        from PIL import Image

        from simrec.catalogue import previews

        if self._count == self._most:
            return
        down, across = divmod(self._count, self._across)
        self._count += 1
        try:
            picture = previews.opened(preview).convert("RGB")
        except ValueError:
            picture = Image.new("RGB", (1, 1), "white")
        if self._whole is None:
            self.tile = max(1, min(max(picture.size), TILE, EDGE // self._across))
            rows = max(1, -(-self._most // self._across))
            self._whole = Image.new("RGB", (self._across * self.tile, rows * self.tile), "white")
        picture.thumbnail((self.tile, self.tile))
        left = across * self.tile + (self.tile - picture.width) // 2
        self._whole.paste(picture, (left, down * self.tile + (self.tile - picture.height) // 2))

    @property
    def image(self) -> Image:
        """The sheet, cut to the rows that were filled."""
        from PIL import Image

        whole = self._whole or Image.new("RGB", (1, 1), "white")
        return whole.crop((0, 0, whole.width, max(1, -(-self._count // self._across)) * self.tile))


def _lines(rows: Any) -> bytes:
    """Rows as TSV; a tab, line end or backslash in a text is escaped as in Python."""
    lines = ("\t".join("" if cell is None else str(cell).translate(ESCAPED) for cell in row) + "\n" for row in rows)
    return "".join(lines).encode()


def _metadata(path: Path) -> Path:
    return path.with_suffix(".metadata.tsv")


def _config(path: Path, metadata: Sequence[tuple[str, str]], sprite: Path, tile: int) -> str:
    """The config, a protocol buffer as text."""
    named = [("tensor_name", path.stem), ("tensor_path", path.name), *metadata]
    lines = [f"  {name}: {_quoted(value)}\n" for name, value in named]
    sheet = f"  sprite {{\n    image_path: {_quoted(sprite.name)}\n" + f"    single_image_dim: {tile}\n" * 2 + "  }\n"
    return f"embeddings {{\n{''.join(lines)}{sheet}}}\n"


def _quoted(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    return '"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:03o}" for c in data) + '"'

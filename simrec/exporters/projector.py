"""TensorBoard's Embedding Projector: vectors and what is known of them as TSV, previews in a sprite sheet, and the
config that `tensorboard --logdir FOLDER` looks for.

TensorBoard shows the first 100,000 rows, and no picture of more than 8,192 pixels an edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simrec.contracts import Origin
from simrec.errors import RequestError
from simrec.exporters.content import codes
from simrec.exporters.delimited import numbers
from simrec.exporters.files import record_path, writing, written

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 100_000
"""Rows that TensorBoard shows."""

EDGE = 8192
"""Pixels of a sheet's edge, at most."""

TILE = 64
"""Pixels of a preview's edge in the sheet, at most."""

CONFIG = "projector_config.pbtxt"


def write(target: str | BinaryIO, table: Any, origin: Origin) -> Sequence[str]:
    """`.tsv`: the codes; beside it the other columns, the previews, the config and the record.

    Raises RequestError where the folder has a config that is not of this file.
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
        raise RequestError(f"{config}: is there, of another export: name a .tsv in a folder of its own")
    others = [name for name in table.schema.names if name not in ("code", "preview")]
    sheet = _Sheet(min(origin.most, SHOWN))
    beside = [metadata, sprite, config, record_path(target)]
    with writing(target, *beside) as (file, described, drawn, said, record):
        if len(others) > 1:  # of one column TensorBoard expects no name
            described.write(_lines([others]))
        for batch in table:
            texts, dim = numbers(batch.column("code")), codes(batch).shape[1]
            file.write(_lines(texts[start : start + dim] for start in range(0, len(texts), dim)))
            if others:
                described.write(_lines(zip(*(batch.column(name).to_pylist() for name in others), strict=True)))
            for preview in batch.column("preview").to_pylist():
                sheet.add(preview)
        sheet.image.save(drawn, "PNG")
        described_by = [("metadata_path", metadata.name)] if others else []
        said.write((head + _config(path, described_by, sprite, sheet.tile)).encode("utf-8", "surrogateescape"))
        record.write(origin.finished().to_bytes() + b"\n")
    return written(target, *beside)


class _Sheet:
    """A sprite sheet of at most so many previews, row by row."""

    def __init__(self, most: int) -> None:
        from PIL import Image

        self._most, self._across = most, max(1, math.ceil(math.sqrt(most)))
        self.tile, self._count = min(TILE, EDGE // self._across), 0
        rows = max(1, -(-most // self._across))
        self._whole = Image.new("RGB", (self._across * self.tile, rows * self.tile), "white")

    def add(self, preview: bytes) -> None:
        """The next one, in the middle of its tile; what can't be decoded stays white."""
        from PIL import ImageOps

        from simrec.catalogue import previews

        if self._count == self._most:
            return
        down, across = divmod(self._count, self._across)
        self._count += 1
        try:
            picture = previews.opened(preview).convert("RGB")
        except ValueError:
            return
        padded = ImageOps.pad(picture, (self.tile, self.tile), color="white")
        self._whole.paste(padded, (across * self.tile, down * self.tile))

    @property
    def image(self) -> Image:
        """As far as it was filled."""
        rows = max(1, -(-self._count // self._across))
        return self._whole.crop((0, 0, self._whole.width, rows * self.tile))


def _lines(rows: Any) -> bytes:
    """Rows as TSV: a tab or line end within a text becomes a space."""
    lines = ("\t".join("" if cell is None else " ".join(str(cell).split()) for cell in row) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "replace")


def _config(path: Path, metadata: Sequence[tuple[str, str]], sprite: Path, tile: int) -> str:
    """The config, a protocol buffer as text."""
    named = [("tensor_name", path.stem), ("tensor_path", path.name), *metadata]
    lines = [f"  {name}: {_quoted(value)}\n" for name, value in named]
    sheet = f"  sprite {{\n    image_path: {_quoted(sprite.name)}\n" + f"    single_image_dim: {tile}\n" * 2 + "  }\n"
    return f"embeddings {{\n{''.join(lines)}{sheet}}}\n"


def _quoted(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    return '"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\{c:03o}" for c in data) + '"'

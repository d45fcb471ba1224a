"""Pictures in files: a folder of them, a single one, or a list that names them."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np

from simrec.contracts import Images, ImageSpec, Notice, Pictures
from simrec.errors import DataError, ImageError, reason
from simrec.files import opened

PICTURE_ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm",
     ".tga", ".tif", ".tiff", ".webp")
)  # fmt: skip


def folder(text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
    """The pictures in the folder of that path, labels as sub-folders, or the one picture of that path."""
    try:
        path = Path(text)
        if text and path.is_dir():
            return _folder(path, spec, notice)
        if path.is_file():
            from simrec import images

            one = images.read(path, spec)
            return Pictures(text, one, (_printable(Path(path.name)),), (_printable(path.absolute()),), ("",))
    except OSError as error:  # a name too long, a folder closed to us
        raise DataError(f"{text}: cannot be read ({error.strerror}): name another source") from error
    raise DataError(
        f"no source {text!r}: name a folder of pictures, a picture, or one of 'simrec plugins list', such as "
        f"'fashion-mnist' or 'fashion-mnist:test'"
    )


def _folder(folder: Path, spec: ImageSpec, notice: Notice) -> Pictures:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise DataError(
            f"{folder}: no pictures in this folder: it needs PNG, JPEG, WebP, ... files, labels as sub-folders"
        )

    rows, images = _read_all(paths, spec, str(folder), notice)
    good = [paths[row] for row in rows]
    inside = [path.relative_to(folder) for path in good]
    return Pictures(
        name=str(folder.absolute()),
        images=images,
        ids=tuple(_printable(path) for path in inside),
        sources=tuple(_printable(path.absolute()) for path in good),
        labels=tuple(_printable(Path(path.parts[0])) if len(path.parts) > 1 else "" for path in inside),
    )


def listed(text: str, spec: ImageSpec, *, data_dir: Path | None, notice: Notice) -> Pictures:
    """The pictures that a CSV file of that path names, in its order; commas, semicolons or tabs separate its columns.

    Its first line names the columns: `path` (from the file's folder on, or absolute), and as it likes `id` (else the
    path) and `label`; others are left alone.
    """
    path = Path(text)
    try:
        with io.TextIOWrapper(opened(path), "utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            table = csv.DictReader(file, strict=True, delimiter=max(",;\t", key=first.count))
            columns, rows = table.fieldnames or [], list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{text}: cannot be read as a list ({reason(error)}): name a CSV file in UTF-8") from error
    if "path" not in columns:
        raise DataError(f"{text}: a list needs a column 'path', its first line names {', '.join(columns) or 'none'}")
    rows = [row for row in rows if row["path"]]
    ids = [row.get("id") or _printable(Path(row["path"])) for row in rows]
    if twice := [item for item, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{text}: {len(twice)} ids are there more than once, {twice[0]!r} first: give each its own")
    if not rows:
        raise DataError(f"{text}: no pictures in this list: write their paths into its column 'path'")
    paths = [path.parent / row["path"] for row in rows]
    good, images = _read_all(paths, spec, text, notice)
    return Pictures(
        name=f"list:{path.absolute()}",
        images=images,
        ids=tuple(ids[row] for row in good),
        sources=tuple(_printable(paths[row].absolute()) for row in good),
        labels=tuple(rows[row].get("label") or "" for row in good),
    )


def _read_all(paths: Sequence[Path], spec: ImageSpec, source: str, notice: Notice) -> tuple[list[int], Images]:
    """Which of the files can be read, and their pictures (n, h, w, c); the others are told of. DataError if none."""
    from concurrent.futures import ThreadPoolExecutor

    from simrec.images import read

    def attempt(path: Path) -> Images | ImageError:
        try:
            return read(path, spec)
        except ImageError as error:
            return ImageError(str(error))  # without its traceback, which would keep the picture

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(attempt, paths))
    for outcome in outcomes:
        if isinstance(outcome, ImageError):
            notice(f"left out {' '.join(str(outcome).splitlines())}")
    good = {row: outcome for row, outcome in enumerate(outcomes) if not isinstance(outcome, ImageError)}
    if not good:
        raise DataError(f"{source}: none of its {len(paths)} pictures can be read: {outcomes[0]}")
    return list(good), np.concatenate(list(good.values()))


def _printable(path: Path) -> str:
    """The path with '/' between its parts; a name that is no UTF-8 is percent-encoded, so that nothing is lost."""
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(text))
    return text

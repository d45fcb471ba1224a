"""Arrays as the bytes of .npy and .npz files; nothing is ever pickled.

The bytes may come from anyone: an array is accepted only with the expected dtype and shape. They are checked in its
header, before memory of that size is taken.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGEST = 1 << 28
"""Bytes of the largest array in an .npz file."""

Shape = tuple[int | None, ...] | None
"""The shape of an expected array; None for an unknown length, or for an unknown shape."""


def to_npy(array: NDArray[Any]) -> bytes:
    """An array as .npy."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def from_npy(data: bytes, dtype: DTypeLike, shape: Shape) -> NDArray[Any]:
    """The array that `to_npy` wrote, read-only. Raises ValueError for another dtype or shape."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        actual, columns_first, kind = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # a header is parsed as Python, which can fail in many ways
        raise ValueError(f"its header is none ({error})") from error
    fits = shape is None or (
        len(actual) == len(shape) and all(want in (None, have) for want, have in zip(shape, actual, strict=True))
    )
    if version != (1, 0) or kind != np.dtype(dtype) or columns_first or not fits:
        raise ValueError(f"an array {kind} {actual}, not {np.dtype(dtype)} {shape or ''}")
    if len(data) - file.tell() != kind.itemsize * math.prod(actual) or min(actual, default=0) < 0:
        raise ValueError("an array with more or fewer numbers than its header says")
    return np.frombuffer(data, kind, offset=file.tell()).reshape(actual)


def to_npz(**arrays: Any) -> bytes:
    """Arrays by name as a compressed .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def from_npz(data: bytes, expected: Mapping[str, tuple[DTypeLike, Shape]]) -> dict[str, NDArray[Any]]:
    """The arrays that `to_npz` wrote. expected: dtype and shape of each, by name.

    Raises ValueError if the file holds other arrays or cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if set(sizes) != {f"{name}.npy" for name in expected}:
                raise ValueError(
                    f"not as this simrec writes it: it holds {', '.join(sorted(sizes))[:200] or 'nothing'}"
                )
            if max(sizes.values()) > LARGEST:
                raise ValueError(f"an array of {max(sizes.values()):,} bytes")
            return {name: from_npy(archive.read(f"{name}.npy"), *expected[name]) for name in expected}
    except ValueError:
        raise
    except Exception as error:  # zipfile and its decoders share no base class: BadZipFile, zlib.error, EOFError, ...
        raise ValueError(f"its arrays cannot be unpacked: {error}") from error

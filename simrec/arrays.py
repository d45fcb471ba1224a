"""Arrays as the bytes of .npy and .npz files; nothing is ever pickled."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.errors import StoreError


def to_npy(array: NDArray[Any]) -> bytes:
    """An array as .npy."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def from_npy(data: bytes) -> Any:
    """The array that `to_npy` was given."""
    return np.load(io.BytesIO(data), allow_pickle=False)


def to_npz(**arrays: Any) -> bytes:
    """Arrays by name as a compressed .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def from_npz(data: bytes, name: str) -> dict[str, Any]:
    """The arrays that `to_npz` was given; name: the file's, for the StoreError when they cannot be read."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, EOFError) as error:
        raise StoreError(f"{name}: its arrays cannot be read ({error}): train the encoder anew") from error

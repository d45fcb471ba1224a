"""Checks what a plugin does against `simrec.contracts` as it is used: each fault is a PluginError that names it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from simrec.contracts import Codes, Images, Rebuilt
from simrec.errors import NotInstalledError, PluginError, SimrecError, TrainingError, missing, needs, reason

MACHINE = (errno.ENOSPC, errno.EPIPE)
"""A full disk, or a closed pipe that read the progress, is not the plugin's fault."""


LARGEST = 1e18
"""The largest number allowed in a code: squares of larger ones are infinite in float32, so they can't be compared."""


@contextmanager
def blamed_on(culprit: str) -> Iterator[None]:
    """Turns whatever is raised inside into a PluginError about the culprit; errors raised on purpose pass unchanged,
    but a TrainingError, which doesn't know what is being trained, gets the culprit's name.

    culprit: how a sentence names it, with distribution and version. Raises PluginError, which is a NotInstalledError if
    a package of an extra is missing.
    """
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{culprit}: {error}") from error
    except (SimrecError, KeyboardInterrupt, GeneratorExit):
        raise
    # A plugin may raise anything, even SystemExit; a panic in a Rust library isn't an Exception either.
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        if module := missing(error):
            raise NotInstalledError(f"{culprit} {needs(module)}") from error
        raise PluginError(f"{culprit} failed: {reason(error)}: fix the plugin, or use another") from error


def encoded(encoder: Any, images: Images, dim: int, culprit: str) -> Codes:
    """An encoder's codes (n, dim) of images (n, h, w, c).

    Raises PluginError, naming the culprit, when they are not float32 (n, dim) and finite.
    """
    with blamed_on(culprit):
        codes: Codes = encoder.encode(images)
    _check(codes, (len(images), dim), "codes", culprit)
    return codes


def collapsed(codes: Codes) -> bool:
    """Whether several codes (n, dim) are all the same, apart from rounding, so that no look-up tells items apart."""
    if len(codes) < 2:
        return False
    return float((codes.max(axis=0) - codes.min(axis=0)).max()) <= 1e-6 * float(np.abs(codes[0]).max())


def decoded(encoder: Any, codes: Codes, shape: tuple[int, int, int], culprit: str) -> Rebuilt:
    """An encoder's pictures (n, *shape) of codes (n, dim).

    Raises PluginError, naming the culprit, when they are not float32 (n, *shape) and finite.
    """
    with blamed_on(culprit):
        rebuilt: Rebuilt = encoder.decode(codes)
    _check(rebuilt, (len(codes), *shape), "pictures", culprit)
    return rebuilt


def _check(array: object, shape: tuple[int, ...], what: str, culprit: str) -> None:
    if not isinstance(array, np.ndarray):
        raise PluginError(f"{culprit} gives {what} that are {type(array).__name__}, not a numpy array: fix the plugin")
    if array.dtype != np.float32 or array.shape != shape:
        raise PluginError(
            f"{culprit} gives {what} that are {array.dtype} {array.shape}, not float32 {shape}: fix the plugin"
        )
    if not np.isfinite(array).all() or np.abs(array).max(initial=0) > LARGEST:
        raise PluginError(
            f"{culprit} gives {what} that are not finite, or too large: train it again with a lower learning rate, or "
            f"use another"
        )

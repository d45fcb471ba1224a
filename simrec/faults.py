"""Checks what a plugin does against `simrec.contracts` as it is used: each fault is a PluginError that names it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from simrec.contracts import Codes, Epoch, History, Images, ImageSpec, Rebuilt
from simrec.contracts.encoders import Ended
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


def check_attributes(encoder: Any, culprit: str) -> None:
    """Raises PluginError, naming the culprit, if an encoder's input, dim or sample isn't what the contract says."""
    with blamed_on(culprit):  # each may be a property
        spec, dim, sample = (getattr(encoder, name, None) for name in ("input", "dim", "sample"))
    if not isinstance(spec, ImageSpec):
        raise PluginError(f"{culprit} has an input that is {spec!r:.100}, not an ImageSpec: fix the plugin")
    for name, value in (("dim", dim), ("sample", 1 if sample is None else sample)):
        if not isinstance(value, int) or value < 1:
            raise PluginError(f"{culprit} has a {name} that is {value!r:.100}, not an int of 1 or more: fix the plugin")


def checked_history(history: object, culprit: str) -> History:
    """What an encoder's `fit` returned, with numpy's numbers as Python's.

    Raises PluginError, naming the culprit and the field, if it isn't a History as the contract has it.
    """
    if not isinstance(history, History):
        raise PluginError(f"{culprit} kept no epoch of its training: its fit returned {type(history).__name__}")
    epochs = history.epochs
    if not isinstance(epochs, tuple | list) or not all(isinstance(epoch, Epoch) for epoch in epochs):
        raise PluginError(f"{culprit} returned a History whose epochs are {epochs!r:.100}, not Epochs: fix its fit")
    if not isinstance(history.kept, int) or not 1 <= history.kept <= len(epochs):
        raise PluginError(f"{culprit} kept epoch {history.kept!r:.100} of {len(epochs)}: fix its fit")
    if history.ended not in get_args(Ended):
        raise PluginError(
            f"{culprit} returned a History whose ended is {history.ended!r:.100}, not {' or '.join(get_args(Ended))}: "
            f"fix its fit"
        )
    return replace(history, epochs=tuple(_epoch(epoch, culprit) for epoch in epochs))


def _epoch(epoch: Epoch, culprit: str) -> Epoch:
    def number(value: object, name: str) -> float:
        if not isinstance(value, float | int | np.floating | np.integer):
            what = f"{name} is {type(value).__name__}, not a number"
            raise PluginError(f"{culprit} returned an Epoch whose {what}: fix its fit")
        return float(value)

    if not isinstance(epoch.epoch, int):
        raise PluginError(f"{culprit} returned an Epoch whose epoch is {epoch.epoch!r:.100}, not an int: fix its fit")
    if not isinstance(epoch.parts, Mapping):
        raise PluginError(
            f"{culprit} returned an Epoch whose parts are {type(epoch.parts).__name__}, not a dict: fix its fit"
        )
    parts = {str(name): number(value, f"part {name!r:.100}") for name, value in epoch.parts.items()}
    loss, validation_loss, seconds = (
        number(getattr(epoch, name), name) for name in ("loss", "validation_loss", "seconds")
    )
    return Epoch(epoch.epoch, loss, validation_loss, parts, seconds)


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
    return bool((codes.max(axis=0) - codes.min(axis=0) <= 1e-6 * np.abs(codes[0])).all())


def decoded(encoder: Any, codes: Codes, shape: tuple[int, int, int], culprit: str) -> Rebuilt:
    """An encoder's pictures (n, *shape) of codes (n, dim).

    Raises PluginError, naming the culprit, when they are not float32 (n, *shape) and finite.
    """
    with blamed_on(culprit):
        rebuilt: Rebuilt = encoder.decode(codes)
    _check(rebuilt, (len(codes), *shape), "pictures", culprit)
    return rebuilt


def _check(array: object, shape: tuple[int, ...], what: str, culprit: str) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        there = type(array).__name__
        raise PluginError(f"{culprit} gives {what} that are {there}, not a plain numpy array: fix the plugin")
    if array.dtype != np.float32 or array.shape != shape:
        raise PluginError(
            f"{culprit} gives {what} that are {array.dtype} {array.shape}, not float32 {shape}: fix the plugin"
        )
    if not np.isfinite(array).all() or np.abs(array).max(initial=0) > LARGEST:
        raise PluginError(
            f"{culprit} gives {what} that are not finite, or too large: train it again with a lower learning rate, or "
            f"use another"
        )

"""Names to sources: what a person types for a folder, a list, a data set, or what a plugin offers.

`fashion-mnist`, `fashion-mnist:test`, a plugin's `name:text`, or the path of a folder or picture; `folder:PATH` is a
path even where a source has that name. Labels come along for showing and scoring; no training sees them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simrec.contracts import ImageSpec, Notice, Pictures
from simrec.errors import DataError, PluginError
from simrec.faults import blamed_on

LISTS = (".csv", ".tsv")
"""How the name of a list of pictures ends."""


def load(source: str, spec: ImageSpec, *, data_dir: Path | None = None, notice: Notice) -> Pictures:
    """The pictures of a source, as an encoder with that spec is fed them.

    data_dir: where to look for a data set's files first. notice: told, in a line each, what was left out or is
    downloaded. Raises DataError when the source is not to be had, ImageError for a single picture that cannot be read,
    PluginError, naming the distribution, for a plugin's source that is broken.
    """
    from simrec import host

    plugins = host.discover()
    name, _, text = source.partition(":")
    # Without a colon even "folder" is the path of one that has this name.
    if name not in [offer.spec.name for offer in plugins.sources] or source == "folder":
        name, text = "list" if source.lower().endswith(LISTS) else "folder", source
    offer = plugins.source(name)
    function = host.imported(offer)
    with blamed_on(str(offer)):
        pictures: Pictures = function(text, spec, data_dir=data_dir, notice=notice)
    _check(pictures, spec, str(offer))
    return pictures


def _check(pictures: object, spec: ImageSpec, culprit: str) -> None:
    """Raises PluginError, naming the culprit, for what `simrec.contracts.Source` does not allow."""
    if not isinstance(pictures, Pictures):
        raise PluginError(f"{culprit} returned {type(pictures).__name__}, not Pictures: fix the plugin")
    images, count = pictures.images, len(pictures.ids)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (count, *spec.shape):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise PluginError(
            f"{culprit} returned images that are {found} for {count} ids, not uint8 {(count, *spec.shape)}: "
            f"fix the plugin"
        )
    if not len(pictures.sources) == len(pictures.labels) == len(set(pictures.ids)) == count:
        raise PluginError(
            f"{culprit} returned pictures without a source, a label and an id of its own for each: fix it"
        )
    if not count:
        raise DataError(f"{pictures.name}: no pictures in this source: name another")


def test_split(source: str) -> str | None:
    """The name of the split to test on what was trained on a source of that name; None where there is none."""
    return {"fashion-mnist": "fashion-mnist:test", "fashion-mnist:small": "fashion-mnist:small-test"}.get(source)

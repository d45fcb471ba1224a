"""The items that a catalogue holds, and the hits that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from simrec.contracts.sources import Value


class Item(NamedTuple):  # an answer makes several, and a frozen dataclass takes longer
    """One item of a catalogue; see `Entry`. content: the digest of its picture's file. origin: the name of the source
    that listed it.
    """

    id: str
    source: str
    label: str = ""
    fields: Mapping[str, Value] = {}  # shared: nobody changes a Mapping
    stamp: str = ""
    content: str = ""
    origin: str = ""


class Hit(NamedTuple):
    """An item that was found; better ones have a higher score and a lower distance (see `simrec.index`)."""

    item: Item
    distance: float
    score: float

"""What a catalogue holds and what it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simrec.contracts.sources import Value


@dataclass(frozen=True)
class Item:
    """One item of a catalogue; see `Entry`. content: the digest of its picture's file. origin: the name of the source
    that listed it.
    """

    id: str
    source: str
    label: str = ""
    fields: Mapping[str, Value] = field(default_factory=dict)
    stamp: str = ""
    content: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Hit:
    """An item that was found; score is higher for better ones, distance lower (see `simrec.index`)."""

    item: Item
    distance: float
    score: float

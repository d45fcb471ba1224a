"""What a source of pictures is: it lists entries without decoding anything, and reads those that the caller chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from simrec.contracts.arrays import Images, ImageSpec, Notice
from simrec.errors import ImageError

Value = str | int | float | None
"""What a field of an item holds; None if it is empty. Whole numbers have at most 64 bits; NaN and infinities count as
empty. Numbers and texts of numpy become Python's, truth values 1 and 0.
"""


@dataclass(frozen=True)
class Entry:
    """One item of a source, listed but not yet read.

    id: stable and unique within the source, never empty: the path relative to the folder, the list's id column,
    "train/00042". source: the picture file's absolute path, or the data set's name. label: "" for none. stamp: changes
    when the picture may have changed (size and modification time for a file), "" if it never does. fields: what else is
    known about the item, by name.
    """

    id: str
    source: str
    label: str = ""
    stamp: str = ""
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Some entries, read.

    entries: those that could be read, unchanged and in the given order. images: uint8 (n, h, w, c), as the encoder
    takes them. previews: for people to see, a JPEG or PNG file each, in colour, longest edge at most 128 pixels.
    contents: `content` of each picture's file: items with the same content are exact copies. errors: all the other
    entries, which could not be read, and why. fields: what reading found out about each picture, such as its width; the
    entry's own fields take precedence; may be empty.
    """

    entries: Sequence[Entry]
    images: Images
    previews: Sequence[bytes]
    contents: Sequence[str]
    errors: Sequence[tuple[Entry, ImageError]] = ()
    fields: Sequence[Mapping[str, Value]] = ()


class Source(Protocol):
    """A source of pictures, opened.

    name: what to type to open it again, from any folder. test: the name of the source to test on, or None. reduced:
    whether it stands in for a larger data set that wasn't available. A source of picture files may also have `root`,
    the folder that their paths start from: a catalogue can then follow the folder to another place.
    """

    name: str
    test: str | None
    reduced: bool

    def entries(self) -> Iterator[Entry]:
        """All entries as a stream, always in the same order; nothing is decoded.

        Raises DataError if they can't be listed.
        """
        ...

    def read(self, entries: Sequence[Entry], spec: ImageSpec) -> Batch:
        """Reads entries of this source for an encoder with that spec, in parallel and in bounded memory.

        `simrec.reading` does this for picture files (`read_files`) and arrays (`batch`). An entry that can't be read
        goes into the batch's errors. Several threads may call this.
        """
        ...


class Digested(Protocol):
    """A source that knows `Batch.contents` without decoding, so that renamed pictures needn't be encoded again."""

    def contents(self, entries: Sequence[Entry]) -> list[str | None]:
        """`content` of each entry's picture file; None if it can't be read."""
        ...


class OpenSource(Protocol):
    """The factory of a `SourceSpec`: a function, or the source's class."""

    def __call__(self, text: str, *, data_dir: Path | None, notice: Notice) -> Source:
        """Opens the source.

        text: what was typed after the name and its colon, or "". data_dir: where the person said the data set's files
        are. notice: receives one-line messages for the person. Raises DataError if the pictures aren't available,
        RequestError for a text that means nothing.
        """
        ...


def content(data: bytes | bytearray | memoryview) -> str:
    """The digest (BLAKE2b, 128 bits, in hex) of a picture file's bytes, or of an array's: see `Batch`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()

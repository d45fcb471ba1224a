"""Reads how a Parquet file's columns are compressed from its footer, without pyarrow.

pyarrow crashes the process if it is asked for the compression of a column in a damaged footer. The footer is a struct
in Thrift's compact protocol (thrift-compact-protocol.md, and parquet.thrift in apache/parquet-format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

LARGEST = 16 << 20
"""Maximum bytes of a footer."""

DEEPEST = 16
"""How deep its structs and lists may be nested."""

CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")

_BYTE, _WHOLE, _DOUBLE, _BINARY, _LISTS, _STRUCT = 3, (4, 5, 6), 7, 8, (9, 10), 12


def codecs(file: BinaryIO) -> set[str]:
    """How the columns of an open file are compressed. Raises ValueError for an invalid footer."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    length, mark = struct.unpack("<I4s", file.read(8))
    if mark != b"PAR1" or length > min(LARGEST, end - 12):
        raise ValueError(f"it doesn't end as a Parquet file does, or has a footer of {length:,} bytes")
    file.seek(end - 8 - length)
    return {_name(codec) for codec in _Reader(file.read(length)).codecs()}


def _name(codec: int) -> str:
    return CODECS[codec] if 0 <= codec < len(CODECS) else f"codec {codec}"


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._place, self._depth = data, 0, 0

    def codecs(self) -> Iterator[int]:
        """FileMetaData.row_groups[].columns[].meta_data.codec of every column."""
        for _ in self._within_list(4):
            for _ in self._within_list(1):
                numbers = list(self._codec())
                if len(numbers) != 1:
                    raise ValueError("its footer doesn't say of every column how it is compressed")
                yield from numbers

    def _codec(self) -> Iterator[int]:
        """The codec of a ColumnChunk, which must not be in another file."""
        for number, kind in self._fields():
            if number == 1:
                raise ValueError("its columns lie in other files")
            if number == 3 and kind == _STRUCT:
                for inner, inner_kind in self._fields():
                    if inner == 4 and inner_kind in _WHOLE:
                        yield self._whole()
                    else:
                        self._skip(inner_kind)
            else:
                self._skip(kind)

    def _within_list(self, wanted: int) -> Iterator[None]:
        """Moves to each struct in a list; wanted: the number of the field that holds the list."""
        for number, kind in self._fields():
            if number == wanted and kind in _LISTS:
                count, element = self._list()
                if element != _STRUCT:
                    raise ValueError("its footer has no list where there must be one")
                for _ in range(count):
                    yield
            else:
                self._skip(kind)

    def _fields(self) -> Iterator[tuple[int, int]]:
        """The number and type of each field of a struct; its value comes next in the data."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._whole()
            yield number, head & 15

    def _skip(self, kind: int, *, listed: bool = False) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("its footer is nested too deeply")
        if kind == _BYTE or (kind in (1, 2) and listed):
            self._byte()
        elif kind in _WHOLE:
            self._varint()
        elif kind in (_DOUBLE, _BINARY):
            self._move(8 if kind == _DOUBLE else self._varint())
        elif kind in _LISTS:
            count, element = self._list()
            for _ in range(count):
                self._skip(element, listed=True)
        elif kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner)
        elif kind not in (1, 2):  # truth values are in the type itself; a footer has no maps
            raise ValueError(f"its footer has a value of type {kind}")
        self._depth -= 1

    def _list(self) -> tuple[int, int]:
        """The length of a list and the type of its elements."""
        head = self._byte()
        return (head >> 4) if head >> 4 < 15 else self._varint(), head & 15

    def _byte(self) -> int:
        self._move(1)
        return self._data[self._place - 1]

    def _move(self, count: int) -> None:
        self._place += count
        if self._place > len(self._data):
            raise ValueError("its footer is cut short")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its footer has an endless number")

    def _whole(self) -> int:
        """A signed number, zigzag."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

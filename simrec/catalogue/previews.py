"""A catalogue's previews: JPEG and PNG files as simrec writes them, read back with care."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from simrec import picture_files

_PNG = b"\x89PNG\r\n\x1a\n"

EDGE = 128
"""Maximum longest edge in pixels."""

LARGEST = 1 << 20
"""Maximum size in bytes."""

NONE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000100000001008000000003a98a0bd000000114944415478da637cc2800a981846b40000037b010455"
    "c6ae490000000049454e44ae426082"
)
"""What a local catalogue stores for an item without a preview: 16 x 16 pixels of one grey, which no photo has."""

NOTHING = zlib.crc32(NONE)
"""Its checksum."""


def opened(data: bytes, edge: int = EDGE) -> Image.Image:
    """The picture, decoded. Raises ValueError for anything but a JPEG or PNG of at most `edge` pixels an edge."""
    check(data, edge)
    kind = "PNG" if data.startswith(_PNG) else "JPEG"
    try:
        with picture_files.silence:  # Pillow warns about large or odd files, which are refused here
            if kind == "PNG":
                Image.open(io.BytesIO(data), formats=[kind]).verify()  # checks the checksums, which decoding ignores
            picture = Image.open(io.BytesIO(data), formats=[kind])
            if max(picture.size) > edge or picture.mode not in ("L", "RGB"):
                raise ValueError(f"a picture {picture.mode} {picture.size} is not a preview")
            picture.load()
    except Exception as error:  # decoders raise many exceptions for a damaged file
        raise ValueError(str(error)) from error
    return picture


def check(data: bytes, edge: int = EDGE) -> None:
    """Raises ValueError for data that can't be a preview, as far as that shows without decoding it."""
    if data.startswith(_PNG):
        chunks = _chunks(data)
        # Pillow would use the last of several headers, and take more memory than the pixels need for other chunks.
        if chunks[0] != b"IHDR" or chunks[-1] != b"IEND" or set(chunks[1:-1]) != {b"IDAT"}:
            raise ValueError("it has other chunks than a preview")
        if max(struct.unpack(">2I", data[16:24])) > edge:
            raise ValueError("it has more pixels than a preview")
    elif not data.startswith(b"\xff\xd8\xff") or (
        data.count(b"\xff\xda") > 1  # most have one marker for the start of a scan, and counting is fast
        and picture_files.scans(io.BytesIO(data)) > 1
    ):
        raise ValueError("neither a PNG nor a JPEG of one scan")


def _chunks(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks, in order. Raises ValueError if they don't end where the file does."""
    names, place = [], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        names.append(png[place + 4 : place + 8])
        place += 12 + length
    if place != len(png) or not names:
        raise ValueError("it is cut short, or longer than it says")
    return names

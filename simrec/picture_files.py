"""Decodes picture files from anyone: which formats, and how much memory and time each may take.

A file's first bytes decide its format; if that is one of FORMATS, only that decoder is tried. The header decides
whether the file costs too much, before a pixel is decoded. All threads share one BUDGET of memory: a folder of hostile
pictures takes no more of it than a single one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from simrec import files
from simrec.errors import ImageError

FORMATS = {
    "PNG": "PIL.PngImagePlugin",
    "JPEG": "PIL.JpegImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
    "HEIF": "pillow_heif",
    "PPM": "PIL.PpmImagePlugin",
    "ICO": "PIL.IcoImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
    "TGA": "PIL.TgaImagePlugin",
}
"""The formats by Pillow's names, and the module that decodes each. JPEG includes the MPO files that phones write."""

LARGEST = 100_000_000
"""Maximum pixels of a picture."""

LARGEST_FILE = 3 * LARGEST
"""Maximum bytes of a file: an uncompressed picture of LARGEST pixels takes no more."""

BUDGET = 750_000_000
"""Maximum memory, in bytes, of all pictures being decoded in this process. A picture that needs more is refused."""

BESIDE = 16_000_000
"""Bytes that converting and preparing a picture takes beside its own pixels: bands, small versions."""

LARGE = 100_000_000
"""The memory of a picture of this many bytes or more is returned to the system at once."""

ORDINARY = 16_000_000
"""Up to so many pixels a picture keeps its size. A larger one is averaged down by a whole factor while it is read."""

KEPT = 1024
"""Minimum longest edge, in pixels, of a picture that is averaged down."""

BAND = 1_000_000
"""How many pixels are converted at a time."""

SCANS = 100
"""Maximum scans of a JPEG. Cameras and web sites write 1 to 12; each costs a pass over the picture."""

SCANNED = 2_000_000_000
"""Maximum pixels times scans of a JPEG: about four seconds."""

SLOW = 4_000_000
"""Maximum pixels of a picture that Pillow decodes in Python: see _IN_PYTHON."""

ICON = 1024
"""Maximum longest edge of an icon, in pixels."""

READS = 1_000_000
"""How often a decoder may read from a file: a few thousand times are common, but a file can be cut into tiny parts."""

AHEAD = 16_000_000
"""Maximum bytes of a JPEG before its first scan: for each further segment of a kind, Pillow copies all those before."""

IN_MEMORY = 8_000_000
"""Up to so many bytes a file is read at once; a larger one is read as its decoder asks for it."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4000000", "MALLOC_TRIM_THRESHOLD_": "4000000"}
"""Environment variables for processes that decode many pictures: glibc returns a large picture's memory to the system
at once and keeps a small one's for the next. By itself it raises the first number after each large picture, so it keeps
more and more; and it returns small ones' memory so often that asking for it again slows all decoding.
"""

PIECE = 1 << 20
"""How many bytes of a file are searched or hashed at a time."""

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    *((0, start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")),
    (0, b"BM", "BMP"),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *((4, b"ftyp" + brand, "HEIF") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
    *((0, b"P%d" % kind, "PPM") for kind in range(1, 7)),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
"""Signatures: the offset in the file, the bytes there, and the format. TGA has none."""

_HEAD = 32

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel that Pillow takes for a mode; 4 for any other mode."""

_DECODING = {"WEBP": 13, "AVIF": 12, "HEIF": 8, "JPEG2000": 20, "GIF": 2}
"""Bytes per pixel that a decoder takes beside Pillow's own. Measured with pictures of 25 megapixels (resident memory
after `Image.open(...).load()`, Pillow 13.0; in RGB 12.1, 5.4, 3.6, 15.4 and 0), with room for transparency."""

_IN_PYTHON = {"ppm_plain": "PPM in plain text", "ppm": "PPM of that depth", "bmp_rle": "packed BMP"}
"""Pillow's decoders that are written in Python, and what people call such a file."""

_ORIENTATION = 0x0112

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture with that EXIF orientation upright."""

_SIDEWAYS = (5, 6, 7, 8)
"""The orientations in which a file's width is the height that people see."""


class _Counted:
    """A file that limits how often, and how many bytes, its decoder may read."""

    reads_left = READS
    bytes_left = 1 << 40

    def _count(self, data: bytes) -> bytes:
        self.reads_left -= 1
        self.bytes_left -= len(data)
        if self.reads_left < 0 or self.bytes_left < 0:
            raise ValueError("it is made of too many pieces")
        return data


class _InMemory(_Counted, io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return self._count(io.BytesIO.read(self, size))


class _OnDisk(_Counted, io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        return self._count(io.BufferedReader.read(self, size))


Contents = _InMemory | _OnDisk
"""A file's contents, open for reading and seeking."""


class _Budget:
    """Memory that threads share; a thread that needs more than is left waits. size: in bytes. large: a file that a
    process locks while it needs more than `size`, so that only one does at a time.
    """

    def __init__(self, size: int, large: Path | None = None) -> None:
        self._size = self._left = size
        self._large: contextlib.AbstractContextManager[object] | None = None
        if large is not None:
            from filelock import FileLock

            self._large = FileLock(large, thread_local=False)
        self._changed, self._alone = threading.Condition(), threading.Lock()

    @contextlib.contextmanager
    def share(self, size: int) -> Iterator[None]:
        if self._large is not None and size > self._size:
            with self._alone, self._large:
                yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


class _Silence:
    """Suppresses warnings while at least one thread is inside: `warnings.catch_warnings` isn't safe with threads."""

    def __init__(self) -> None:
        self._inside = 0
        self._lock = threading.Lock()
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


# glibc always returns blocks of 32 MB or more to the system; it keeps smaller ones for the thread that freed them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]

_budget = _Budget(BUDGET)
silence = _Silence()


@dataclass(frozen=True)
class Enough:
    """The minimum longest edge (with `shortest`: shortest edge), in pixels, of a picture that is decoded smaller."""

    pixels: int
    shortest: bool = False

    def longest_edge(self, size: tuple[int, int]) -> int:
        """The longest edge, in pixels, that is enough for a picture of that width and height."""
        return -(-self.pixels * max(size) // max(1, min(size))) if self.shortest else self.pixels


WHOLE = "whole"
"""The key in the `info` of a picture from `opened` for the width and height of its file, upright."""


@contextlib.contextmanager
def opened(file: Path | BinaryIO, called: str, enough: Enough | None = None) -> Iterator[Image.Image]:
    """Decodes a picture file: upright, transparency laid on white, grey ("L") or colour ("RGB"), the first frame.

    called: what to call the file in an error. enough: how many pixels you need, if not all; a larger picture is decoded
    at a smaller scale or averaged down. Use the picture only in the block: at its end the memory is given back. Raises
    ImageError for a file that is missing, empty, cut short or not a picture, and for one that would take too much
    memory or time.
    """
    with contents(file, called) as data, decoded(data, called, enough) as picture:
        yield picture


@contextlib.contextmanager
def contents(file: Path | BinaryIO, called: str) -> Iterator[Contents]:
    """A file's contents, for `digest` and `decoded`; a large file stays on disk.

    Raises ImageError for a file that is missing or empty, that is too large, or that changes before the block ends.
    """
    with explained(called):
        try:
            given: Contents = (
                _OnDisk(files.opened(file).detach())  # type: ignore[attr-defined]
                if isinstance(file, Path)
                else _InMemory(file.read(LARGEST_FILE + 1))
            )
        except OSError as error:
            raise ImageError(f"{called}: cannot be read ({error.strerror}): name a picture file") from error
        with given:
            if isinstance(given, _InMemory):
                _check_length(called, given.getbuffer().nbytes)
                yield given
                return
            before = os.fstat(given.fileno())
            _check_length(called, before.st_size)
            if before.st_size <= IN_MEMORY:
                whole = given.read(before.st_size + 1)
                _check_unchanged(given, before, called)
                yield _InMemory(whole)
                return
            try:
                yield given
            except ImageError:  # the change may have caused it
                _check_unchanged(given, before, called)
                raise
            _check_unchanged(given, before, called)


@contextlib.contextmanager
def decoded(data: Contents, called: str, enough: Enough | None = None) -> Iterator[Image.Image]:
    """The picture in a file's contents: see `opened`."""
    with silence, explained(called):  # Pillow warns of bombs and odd metadata; the checks here are stricter
        picture = _header(data, called)
        size, cost = picture.size, _cost(picture, data, called, enough)
        if cost > BUDGET:
            raise _too_many(called, size, picture.format)
        with _budget.share(cost):
            upright = None
            try:
                upright = flattened(picture, enough)
                upright.info[WHOLE] = size[::-1] if sideways(picture) else size
                yield upright
            finally:  # frees their pixels too, even if something still refers to them, such as an error's traceback
                if upright is not None:
                    upright.close()
                picture.close()
                _give_back(cost)


def digest(data: Contents) -> str:
    """The BLAKE2b digest of all bytes: 16 bytes, in hexadecimal."""
    data.seek(0)
    hashed = hashlib.blake2b(digest_size=16)
    for _ in range(LARGEST_FILE // PIECE + 1):  # another program may add to the file for ever
        if not (piece := data.read(PIECE)):
            break
        hashed.update(piece)
    return hashed.hexdigest()


def limit(size: int, processes: int = 1, large: Path | None = None) -> None:
    """Sets a smaller budget for this process, before it decodes anything. size: in bytes.

    large: a file that several processes share, which have 1.5 times `size` together: each has its share of one half for
    small pictures, and one process at a time, which locks the file, has `size` for a large one.
    """
    global BUDGET, _budget
    BUDGET, _budget = size, _Budget(size if large is None else size // 2 // processes, large)


def _give_back(cost: int) -> None:
    """Returns a large picture's memory to the system: glibc keeps freed memory for the thread that had it."""
    if cost > LARGE and sys.platform == "linux":
        import ctypes

        with contextlib.suppress(AttributeError):  # another C library, which returns memory by itself
            ctypes.CDLL(None).malloc_trim(0)


def _check_length(called: str, length: int) -> None:
    if not length:
        raise ImageError(f"{called}: the file is empty: name a picture file")
    if length > LARGEST_FILE:
        raise ImageError(f"{called}: more than {LARGEST_FILE // 1_000_000} MB: name a smaller picture file")


def _check_unchanged(data: _OnDisk, before: os.stat_result, called: str) -> None:
    after = os.fstat(data.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ImageError(f"{called}: the file changed while it was read: try again when it is written")


@contextlib.contextmanager
def explained(called: str) -> Iterator[None]:
    """Turns whatever is raised in the block, by a decoder or a recipe, into an ImageError."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"{called}: not a picture: use a PNG, JPEG, WebP, GIF, TIFF or BMP file") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{called}: too many pixels: scale it down") from None
    except ImageError:
        raise
    except MemoryError as error:
        _forget(error)
        raise ImageError(f"{called}: needs more memory than there is: scale it down") from None
    # Decoders raise many exceptions for a damaged file (OSError, SyntaxError, struct.error, RuntimeError, ...).
    except Exception as error:
        _forget(error)
        if isinstance(error, OSError) and error.errno:
            raise ImageError(f"{called}: cannot be read ({error.strerror}): name a picture file") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{called}: damaged or cut short ({reason}): save it again") from error


def _forget(error: BaseException | None) -> None:
    """Clears the frames in an error's traceback, which hold a decoder and its picture: the error may be kept long."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _header(data: Contents, called: str) -> Image.Image:
    """The picture with only its header read. Raises ImageError for too many pixels."""
    head = data.read(_HEAD)
    data.seek(0)
    kind = next((kind for start, bytes_, kind in _SIGNATURES if head.startswith(bytes_, start)), "TGA")
    if kind == "WEBP" and (size := _webp_size(head)):  # opening it already takes memory for its pixels
        _check_size(called, size, kind)
    if kind == "ICO":
        _check_icon(data, called)
    try:
        module = import_module(FORMATS[kind])
    except ImportError:
        remedy = "pip install pillow-heif" if kind == "HEIF" else "pip install --upgrade Pillow"
        raise ImageError(f"{called}: a {kind} picture needs another library: {remedy!r}") from None
    if kind == "HEIF":
        module.register_heif_opener()
    if kind == "JPEG":
        data.bytes_left = AHEAD
    picture = Image.open(data, formats=[kind])
    data.bytes_left = _Counted.bytes_left
    _check_size(called, picture.size, kind)
    return picture


def _check_size(called: str, size: tuple[int, int], kind: str) -> None:
    width, height = size
    if width * height > LARGEST or width * height * _DECODING.get(kind, 0) > BUDGET:
        raise _too_many(called, size, kind)


def _too_many(called: str, size: tuple[int, int], kind: str | None) -> ImageError:
    return ImageError(f"{called}: {size[0]} x {size[1]} pixels are too many for a {kind} file: scale it down")


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a WebP file; None if its first chunk doesn't have them."""
    kind, start = head[12:16], head[20:]
    if kind == b"VP8X" and len(start) >= 10:
        return int.from_bytes(start[4:7], "little") + 1, int.from_bytes(start[7:10], "little") + 1
    if kind == b"VP8L" and len(start) >= 5:
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(start) >= 10:
        return int.from_bytes(start[6:8], "little") & 0x3FFF, int.from_bytes(start[8:10], "little") & 0x3FFF
    return None


def _check_icon(data: BinaryIO, called: str) -> None:
    """Raises ImageError for an icon that contains a larger picture than its directory can state."""
    (count,) = struct.unpack("<4xH", data.read(6))
    starts = [struct.unpack("<12xI", data.read(16))[0] for _ in range(count)]
    for start in starts:
        data.seek(start)
        head = data.read(24)
        size = struct.unpack(">2I", head[16:24]) if head.startswith(b"\x89PNG") else struct.unpack("<2i", head[4:12])
        if max(map(abs, size)) > 2 * ICON:  # a bitmap's height counts its mask too
            raise _too_many(called, size, "ICO")
    data.seek(0)


def _cost(picture: Image.Image, data: Contents, called: str, enough: Enough | None) -> int:
    """Maximum memory that reading the picture takes, in bytes; also sets the scale at which a JPEG is decoded."""
    kind = picture.format or ""
    width, height = picture.size
    pixels = width * height
    cost = pixels * _DECODING.get(kind, 0) + BESIDE
    if kind in ("JPEG", "MPO"):
        if (count := scans(data)) > SCANS or count * pixels > SCANNED:
            raise ImageError(f"{called}: a JPEG of {count} scans or more takes too long: save it again")
        if count > 1:  # the decoder keeps the coefficients of every block until the last scan
            cost += 2 * pixels * len(picture.getbands())
        longest = max(width, height)
        edge = enough.longest_edge(picture.size) if enough else longest
        if edge < longest and (edge < 2 * KEPT or pixels <= ORDINARY):
            picture.draft(None, (max(1, width * edge // longest), max(1, height * edge // longest)))
        elif pixels > ORDINARY:
            scale = 2 * KEPT / longest  # averaging does the rest, which is closer to averaging all of it
            picture.draft(None, (round(width * scale), round(height * scale)))
        pixels = picture.size[0] * picture.size[1]
    elif kind == "TIFF":
        if picture.info.get("compression") != "raw":  # libtiff unpacks it, a strip at a time
            cost += _strip(picture) + data.seek(0, io.SEEK_END)
        if picture.getexif().get(_ORIENTATION, 1) != 1:  # Pillow turns a TIFF itself
            cost += 4 * pixels
    elif kind in ("PPM", "BMP") and (slow := _IN_PYTHON.get(picture.tile[0][0])):  # type: ignore[attr-defined]
        if pixels > SLOW:
            raise _too_many(called, picture.size, slow)
        cost += 2 * pixels
        data.reads_left += 3 * pixels  # pixel by pixel
    copied = pixels if pixels <= ORDINARY else (2 * KEPT) ** 2
    return cost + pixels * _STORED.get(picture.mode, 4) + 2 * 4 * copied  # turned, and converted


def scans(data: BinaryIO) -> int:
    """How many scans a JPEG (the first picture in it) has; SCANS + 1 for any larger number."""
    data.seek(_first_scan(data))
    count, before = 0, b""
    while block := data.read(PIECE):
        block = before + block
        ends, starts = _markers(block)
        count += int((starts < ends[0]).sum() if len(ends) else len(starts))
        if len(ends) or count > SCANS:
            break
        before = block[-1:] if block[-1] == 0xFF else b""
    data.seek(0)
    return min(count, SCANS + 1)


def _markers(block: bytes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions, in a part of a JPEG, of the markers for the end of a picture and for the start of a scan.

    Several times as fast as two searches with `bytes.find`.
    """
    values = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero(values[:-1] == 0xFF)
    kinds = values[marks + 1]
    return marks[kinds == 0xD9], marks[kinds == 0xDA]


def _first_scan(data: BinaryIO) -> int:
    """The position of a JPEG's first scan, or of anything else that isn't a segment.

    A thumbnail in a segment may have scans of its own, which don't count.
    """
    position = 2
    while True:
        data.seek(position)
        marker = data.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in (0xDA, 0xFF):
            return position
        position += 2 + int.from_bytes(marker[2:], "big")


def _strip(picture: Image.Image) -> int:
    """Bytes of a TIFF's largest strip or tile, unpacked."""
    tags = picture.tag_v2  # type: ignore[attr-defined]
    width, height = picture.size
    rows, columns = tags.get(323, tags.get(278, height)), tags.get(322, width)
    depths = tags.get(258, (1,))
    bits = max(sum(depths), max(depths) * tags.get(277, 1))
    if 322 not in tags:  # a tile is unpacked whole, a strip only as far as the picture has rows
        rows = min(rows, height)
    return int(rows * columns * max(bits, 8) // 8)


def sideways(picture: Image.Image) -> bool:
    """Whether a picture's width in the file is the height that people see."""
    return picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS


def flattened(picture: Image.Image, enough: Enough | None = None) -> Image.Image:
    """The picture as "L" or "RGB", upright, on white; averaged down if it has more than ORDINARY pixels.

    enough: how many pixels are needed; any larger picture is averaged down too.
    """
    picture.load()
    turn = TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    longest = max(picture.size)
    factor = max(1, longest // KEPT) if picture.width * picture.height > ORDINARY else 1
    if enough is not None:
        factor = max(factor, longest // enough.longest_edge(picture.size))
    if turn is not None and factor == 1:
        return _flat(picture.transpose(turn), 1)
    flat = _flat(picture, factor)
    return flat if turn is None else flat.transpose(turn)


def _flat(picture: Image.Image, factor: int) -> Image.Image:
    """A loaded picture as "L" or "RGB", transparency on white, averaged over squares of factor x factor pixels.

    Works in bands, so that there is never a second copy of a large picture.
    """
    plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
    if plain:
        return picture.reduce(factor) if factor > 1 else picture
    width, height = picture.size
    step = max(1, BAND // (width * factor)) * factor
    tops = range(0, height, step)
    numbers = picture.mode == "F" or picture.mode.startswith("I")
    white = _white(picture, tops, step) if numbers else 0.0
    flat = Image.new("L" if numbers else "RGB", (-(-width // factor), -(-height // factor)))
    for top in tops:
        band = picture.crop((0, top, width, min(top + step, height)))
        band = _grey(band, white) if numbers else _on_white(band)
        flat.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    return flat


def _white(picture: Image.Image, tops: range, step: int) -> float:
    """Which number is white in a picture with 16 or 32 bits per pixel: 1 for fractions, else 255 or 65,535."""
    most = 0.0
    for top in tops:
        values = np.asarray(picture.crop((0, top, picture.width, min(top + step, picture.height))))
        if not np.isfinite(values).all():
            raise ValueError("it has pixels that are not numbers")
        most = max(most, float(values.max(initial=0)))
    if picture.mode == "F" and most <= 1:
        return 1.0
    return 255.0 if most <= 255 else 65535.0


def _grey(band: Image.Image, white: float) -> Image.Image:
    values = np.asarray(band, dtype=np.float64)
    return Image.fromarray(np.clip(values * (255 / white), 0, 255).astype(np.uint8))


def _on_white(band: Image.Image) -> Image.Image:
    if band.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in band.info:
        rgba = band.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return band.convert("RGB")

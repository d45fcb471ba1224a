"""Picture files that a stranger may send: mutants, bombs, programs disguised as pictures, and huge real pictures.

Every function returns the bytes of a file, or a table of such functions by file name; nothing here reads a picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

File = Callable[[], bytes]

SIDE = 10_000
"""Edge of the huge pictures, in pixels: 100 megapixels, which must stay readable as JPEG, PNG and TIFF."""

BOX = (3000, 2000, 7000, 8000)
"""Where the item is in a huge picture: left, top, right, bottom. The rest is white or transparent."""

ITEM = (20, 40, 120)

SMALL = (97, 61)
"""Width and height of the pictures that are mutated: numbers that rarely mean anything else in a header."""


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    """The picture as a file in that format."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def small(mode: str = "RGB", size: tuple[int, int] = SMALL) -> Image.Image:
    """A picture with smooth colours that are different everywhere."""
    down, round_ = Image.linear_gradient("L"), Image.radial_gradient("L")
    picture = Image.merge("RGB", (down, round_, down.rotate(90))).resize(size)
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return picture.convert(mode)


def huge(mode: str, **options: object) -> bytes:
    """ITEM in its BOX on white, 100 megapixels: PNG unless the options name another `form`."""
    form = str(options.pop("form", "PNG"))
    if mode == "I;16":
        deep = np.full((SIDE, SIDE), 65535, np.uint16)
        deep[BOX[1] : BOX[3], BOX[0] : BOX[2]] = Image.new("RGB", (1, 1), ITEM).convert("L").getpixel((0, 0)) * 257
        return saved(Image.fromarray(deep), form, compress_level=1)
    picture = Image.new(mode, (SIDE, SIDE), (0, 0, 0, 0) if mode == "RGBA" else "white")
    picture.paste((*ITEM, 255) if mode == "RGBA" else ITEM, BOX)
    return saved(picture, form, **options)


HUGE: dict[str, File] = {
    "baseline.jpg": lambda: huge("RGB", form="JPEG", subsampling=0),
    "progressive.jpg": lambda: huge("RGB", form="JPEG", subsampling=2, progressive=True),
    "rgb.png": lambda: huge("RGB", compress_level=1),
    "rgba.png": lambda: huge("RGBA", compress_level=1),
    "grey16.png": lambda: huge("I;16"),
    "deflate.tif": lambda: huge("RGB", form="TIFF", compression="tiff_adobe_deflate"),
}
"""Pictures of 100 megapixels that must be read, by file name."""

# Mutants.

BASES: dict[str, tuple[File, ...]] = {
    "png": (
        lambda: saved(small(), "PNG"),
        lambda: saved(small().quantize(64), "PNG", transparency=bytes(range(64))),
        lambda: saved(small("I;16"), "PNG"),
        lambda: saved(small("RGBA"), "PNG", save_all=True, append_images=[small("RGBA").rotate(9)] * 2),
    ),
    "jpg": (
        lambda: saved(small(), "JPEG", exif=_exif(6)),
        lambda: saved(small(), "JPEG", progressive=True),
        lambda: saved(small("CMYK"), "JPEG"),
        lambda: saved(small(), "MPO", save_all=True, append_images=[small()]),
    ),
    "webp": (
        lambda: saved(small(), "WEBP", exif=_exif(3)),
        lambda: saved(small("RGBA"), "WEBP", lossless=True),
        lambda: saved(small(), "WEBP", save_all=True, append_images=[small().rotate(9)] * 2),
    ),
    "gif": (
        lambda: saved(small(), "GIF"),
        lambda: saved(small(), "GIF", save_all=True, append_images=[small().rotate(9)] * 2),
    ),
    "tif": (
        *(lambda how=how: saved(small(), "TIFF", compression=how) for how in ("raw", "tiff_lzw", "jpeg", "packbits")),
        lambda: saved(small("1"), "TIFF", compression="group4"),
        lambda: saved(small("F"), "TIFF", compression="tiff_adobe_deflate"),
    ),
    "bmp": (
        lambda: saved(small(), "BMP"),
        lambda: saved(small("P"), "BMP"),
        lambda: bmp(*SMALL, 8, 1, bytes((90, 7, 0, 3, 1, 2, 3, 0, 0, 0)) * 61),
    ),
    "avif": (lambda: saved(small(), "AVIF"), lambda: saved(small("RGBA"), "AVIF", exif=_exif(5))),
    "jp2": (lambda: saved(small(), "JPEG2000"), lambda: saved(small("LA"), "JPEG2000", tile_size=(32, 32))),
    "ico": (lambda: saved(small("RGBA"), "ICO"), lambda: saved(small(), "ICO", bitmap_format="bmp")),
    "tga": (lambda: saved(small("RGBA"), "TGA", compression="tga_rle"), lambda: saved(small("P"), "TGA")),
    "ppm": (
        lambda: saved(small(), "PPM"),
        lambda: b"P2\n# a comment\n97 61\n90\n" + b"80 7 16\n" * (97 * 61 // 3 + 1),
        lambda: saved(small("1"), "PPM"),
    ),
}
"""Good pictures to mutate, by file ending."""


def mutant(good: bytes, random: Random) -> bytes:
    """The file with random damage of one kind: flipped bytes, cut, spliced, or inflated numbers."""
    made = random.choice((_flipped_header, _flipped, _cut, _spliced, _blown_up, _blown_up))(bytearray(good), random)
    return _sealed(made) if random.random() < 0.7 else bytes(made)


def _flipped_header(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.randint(1, 4)):
        data[random.randrange(min(len(data), 150))] = random.randrange(256)
    return data


def _flipped(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.randint(1, 20)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def _cut(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(1, len(data))]


def _spliced(data: bytearray, random: Random) -> bytearray:
    first, last = sorted(random.randrange(len(data)) for _ in range(2))
    at = random.randrange(len(data))
    piece = data[first:last][:4000]
    return data[:at] + piece * random.choice((1, 1, 2, 50)) + data[random.choice((at, min(len(data), at + 40))) :]


def _blown_up(data: bytearray, random: Random) -> bytearray:
    """Makes an edge in the header, or any other number there, extreme."""
    shapes = ("<I", ">I", "<H", ">H")
    known = [struct.pack(shape, edge - less) for edge in SMALL for less in (0, 1) for shape in shapes]
    edges = [(data.find(field, 0, 500), len(field)) for field in known if data.find(field, 0, 500) >= 0]
    edges += [(data.find(text, 0, 40), 2) for text in (b"97", b"61") if data[:1] == b"P" and data.find(text, 0, 40) > 0]
    for _ in range(random.randint(1, 2)):
        anywhere = (random.randrange(0, min(len(data), 300)), random.choice((2, 4)))
        at, size = random.choice(edges) if edges and random.random() < 0.6 else anywhere
        top = 1 << (8 * size)
        value = random.choice((0, 1, top // 2 - 1, top // 2, top - 1, random.randrange(top), random.randrange(20_000)))
        data[at : at + size] = (value % top).to_bytes(size, random.choice(("little", "big")))
    return data


def _sealed(data: bytearray) -> bytes:
    """A PNG with correct checksums, so that a decoder gets as far as the damage in a chunk; other files unchanged."""
    at = 8
    while data[:4] == b"\x89PNG" and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 <= len(data):
            data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# Bombs: the formats by hand, so that a small file claims or holds what an honest writer never would.


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, *before: bytes, pixels: bytes = b"", laced: int = 0) -> bytes:
    """A PNG: pixels are an IDAT's data, `before` the chunks ahead of it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, laced))
    data = pixels or zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """That many zero bytes as a zlib stream, without holding them in memory."""
    packer = zlib.compressobj(9, wbits=-15)
    million = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % 1_000_000)) + packer.flush()
    return b"\x78\x01" + million * (count // 1_000_000) + rest + struct.pack(">I", count % 65521 << 16 | 1)


def webp(*parts: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks (kind, data)."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    """A lossless WebP chunk of one colour, with no bits per pixel: valid at any size up to 16,384."""
    return b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\x88\x88\x08".ljust(9, b"\0")


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    """The chunk with the canvas's size; flags 2: an animation."""
    return b"VP8X", bytes((flags, 0, 0, 0)) + _three(width - 1) + _three(height - 1)


def moving_webp(width: int, height: int, frames: int) -> bytes:
    """An animation of frames of one pixel on a canvas of that size."""
    kind, data = vp8l(1, 1)
    one = _three(0) * 2 + _three(0) * 2 + _three(40) + b"\0" + kind + struct.pack("<I", len(data)) + data
    return webp(vp8x(width, height, 2), (b"ANIM", bytes(6)), *[(b"ANMF", one)] * frames)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def scans(count: int, side: int, mode: str = "RGB") -> bytes:
    """A progressive JPEG that repeats its last scan that often."""
    data = saved(Image.new(mode, (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def segments(marker: int, data: bytes, count: int, after: bytes = b"") -> bytes:
    """A JPEG that begins with that segment, that often; after: bytes after each that decoders ignore."""
    segment = struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + after
    good = saved(small(), "JPEG")
    return good[:2] + segment * count + good[2:]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def tiff(width: int, height: int, data: bytes, **tags: int | tuple[int, ...]) -> bytes:
    """A TIFF with `data` at byte 8. Tags by number, as t259; by default one strip with deflate, 8-bit grey."""
    known = {"t258": 8, "t259": 8, "t262": 1, "t273": 8, "t277": 1, "t278": height, "t279": len(data)}
    entries, after = b"", b""
    tags = {key: value for key, value in {"t256": width, "t257": height, **known, **tags}.items() if value != ()}
    for tag in sorted(tags, key=lambda key: int(key[1:])):
        values = tags[tag] if isinstance(tags[tag], tuple) else (tags[tag],)
        place = struct.pack("<I", 8 + len(data) + 2 + 12 * len(tags) + 4 + len(after))
        packed = struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", int(tag[1:]), 4, len(values)) + (packed if len(values) == 1 else place)
        after += packed if len(values) > 1 else b""
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + entries + bytes(4) + after


def greedy_tags(count: int) -> bytes:
    """An IFD, for a TIFF or as EXIF, in which each tag is the whole file."""
    size = 8 + 2 + 12 * count + 4
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 0) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + tags + bytes(4)


def bmp(width: int, height: int, bits: int, how: int, pixels: bytes) -> bytes:
    """A BMP; how: 0 uncompressed, 1 runs of 8 bits, 2 runs of 4 bits."""
    colours = bytes(range(4)) * (1 << bits) if bits <= 8 else b""
    header = struct.pack(
        "<IiiHHIIIIII", 40, width, height, 1, bits, how, len(pixels), 0, 0, 1 << bits if colours else 0, 0
    )
    start = 14 + len(header) + len(colours)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + header + colours + pixels


def gif(width: int, height: int, frame: tuple[int, int], frames: int = 1, comment: bytes = b"") -> bytes:
    """A GIF with that screen size and frames of one pixel's data, each of which claims the size `frame`."""
    one = b",\0\0\0\0" + struct.pack("<HH", *frame) + b"\0" + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(range(6)) + comment + one * frames + b";"


def ico(inner: bytes, entries: int = 1) -> bytes:
    """An icon that lists each entry as 16 x 16; all entries are the same inner file."""
    start = 6 + 16 * entries
    return (
        struct.pack("<HHH", 0, 1, entries)
        + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), start) * entries
        + inner
    )


def jp2(**fields: int) -> bytes:
    """A JPEG 2000 with other numbers in its size marker: `width`, `height`, `tile_width`, `tile_height`, `parts`."""
    data = bytearray(saved(small("L"), "JPEG2000"))
    marker, box = data.index(b"\xff\x4f\xff\x51") + 2, data.index(b"ihdr") + 4
    places = {"tile_width": (22, 4), "tile_height": (26, 4), "parts": (38, 2), "width": (6, 4), "height": (10, 4)}
    for field, value in fields.items():
        at, size = places[field]
        data[marker + at : marker + at + size] = value.to_bytes(size, "big")
    data[box : box + 10] = (
        data[marker + 10 : marker + 14] + data[marker + 6 : marker + 10] + data[marker + 38 : marker + 40]
    )
    return bytes(data)


def tga(width: int, height: int, bits: int, pixels: bytes) -> bytes:
    """A TGA in colour with runs."""
    return struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, width, height, bits, 8 if bits == 32 else 0) + pixels


def avif(**options: object) -> bytes:
    """An AVIF of 16 x 16 pixels, saved with these options."""
    return saved(small(size=(16, 16)), "AVIF", speed=10, **options)


BOMBS: dict[str, File] = {
    "lossless.webp": lambda: webp(vp8l(16383, 16383)),
    "extended.webp": lambda: webp(vp8x(16383, 16383), vp8l(16383, 16383)),
    "smaller.webp": lambda: webp(vp8l(13_000, 13_000)),
    "lossy.webp": lambda: webp((b"VP8 ", b"\x10\0\0\x9d\1\x2a\xff\x3f\xff\x3f" + bytes(100))),
    "canvas.webp": lambda: moving_webp(60_000, 60_000, 1),
    "frames.webp": lambda: moving_webp(100, 100, 100_000),
    "grey16.png": lambda: png(SIDE, SIDE, 16, 0, pixels=zeros(SIDE * (2 * SIDE + 1))),
    "rgba.png": lambda: png(SIDE, SIDE, 8, 6, pixels=zeros(SIDE * (4 * SIDE + 1))),
    "cut.png": lambda: png(SIDE, SIDE, 8, 6, pixels=zeros(SIDE * (4 * SIDE + 1))[:-50_000]),
    "laced.png": lambda: png(SIDE, SIDE, 16, 6, pixels=zeros(SIDE * (8 * SIDE + 2)), laced=1),
    "size.png": lambda: png(2**31 - 1, 2**31 - 1, 8, 0),
    "text.png": lambda: png(9, 9, 8, 0, *[chunk(b"zTXt", b"k\0\0" + zeros(100_000_000))] * 20),
    "profile.png": lambda: png(9, 9, 8, 0, chunk(b"iCCP", b"k\0\0" + zeros(900_000_000))),
    "chunks.png": lambda: png(9, 9, 8, 0, *[chunk(b"tEXt", b"k\0v")] * 300_000),
    "exif.png": lambda: png(9, 9, 8, 0, chunk(b"eXIf", greedy_tags(64_000))),
    "frames.png": lambda: png(SIDE, SIDE, 8, 2, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "scans.jpg": lambda: scans(3000, SIDE),
    "small-scans.jpg": lambda: scans(3000, 1000),
    "cmyk.jpg": lambda: scans(1, SIDE, "CMYK"),
    "size.jpg": lambda: with_size(scans(1, 100), 65_500, 65_500),
    "exif.jpg": lambda: segments(0xE1, b"Exif\0\0" + bytes(60_000), 1200),
    "gaps.jpg": lambda: segments(0xE1, b"Exif\0\0" + bytes(60_000), 1200, after=b"\0"),
    "comments.jpg": lambda: segments(0xFE, b"x", 500_000),
    "frames.jpg": lambda: saved(small("L"), "MPO", save_all=True, append_images=[small("L")] * 1000),
    "strip.tif": lambda: tiff(100, 100, zeros(10_000), t278=2**32 - 1, t279=2**32 - 1),
    "strips.tif": lambda: tiff(1, 500_000, zeros(1), t278=1, t273=(8,) * 500_000, t279=(9,) * 500_000),
    "tile.tif": lambda: tiff(
        100, 100, zeros(9), t322=2**31 - 16, t323=2**31 - 16, t324=8, t325=9, t273=(), t278=(), t279=()
    ),
    "rgba16.tif": lambda: tiff(SIDE, SIDE, zeros(8 * SIDE**2), t258=(16,) * 4, t262=2, t277=4, t338=2),
    "float.tif": lambda: tiff(SIDE, SIDE, zeros(4 * SIDE**2), t258=32, t339=3),
    "planes.tif": lambda: tiff(
        SIDE,
        SIDE,
        zeros(SIDE**2),
        t258=(8,) * 3,
        t262=2,
        t277=3,
        t284=2,
        t273=(8,) * 3,
        t279=(len(zeros(SIDE**2)),) * 3,
    ),
    "tags.tif": lambda: greedy_tags(64_000),
    "screen.gif": lambda: gif(65_535, 65_535, (1, 1)),
    "frame.gif": lambda: gif(1, 1, (65_535, 65_535)),
    "frames.gif": lambda: gif(10, 10, (1, 1), 100_000),
    "comment.gif": lambda: gif(10, 10, (1, 1), comment=b"!\xfe" + b"\1x" * 10_000_000 + b"\0"),
    "size.bmp": lambda: bmp(65_535, 65_535, 8, 1, b"\0\1"),
    "runs.bmp": lambda: bmp(SIDE, SIDE, 4, 2, (b"\xfa\x12" * 40 + b"\0\0") * SIDE),
    "padding.bmp": lambda: bmp(SIDE, SIDE, 8, 1, b"\1\1\0\0" * SIDE),
    "line-ends.bmp": lambda: bmp(10, 10, 8, 1, bytes(90_000_000)),
    "png.ico": lambda: ico(png(20_000, 20_000, 8, 6)),
    "bmp.ico": lambda: ico(bmp(20_000, 40_000, 32, 0, bytes(1000))[14:]),
    "entries.ico": lambda: ico(saved(small(), "PNG"), 65_535),
    "size.jp2": lambda: jp2(width=2**31 - 1, height=2**31 - 1, tile_width=2**31 - 1, tile_height=2**31 - 1),
    "tiles.jp2": lambda: jp2(width=SIDE, height=SIDE, tile_width=1, tile_height=1),
    "parts.jp2": lambda: jp2(parts=16_384),
    "large.jp2": lambda: saved(Image.new("RGB", (7000, 7000)), "JPEG2000"),
    "size.tga": lambda: tga(65_535, 65_535, 32, b"\xff\1\2\3\4" * 100),
    "runs.tga": lambda: tga(SIDE, SIDE, 32, (b"\xff\1\2\3\4" * 78 + b"\x8f\1\2\3\4") * SIDE),
    "size.ppm": lambda: b"P6 2147483647 2147483647 255\n",
    "plain.pbm": lambda: b"P1 10000 10000\n" + b"10" * 10_000_000,
    "plain.pgm": lambda: b"P2 4000 4000 255\n" + b"7 " * 4000**2,
    "plain.ppm": lambda: b"P3 10000 10000 65535\n" + b"9 " * 1_000_000,
    "levels.ppm": lambda: b"P6 3000 3000 254\n" + bytes(3 * 3000**2),
    "spaces.ppm": lambda: b"P6" + b" " * 50_000_000,
    "large.avif": lambda: saved(Image.new("RGB", (6000, 6000)), "AVIF", speed=10, quality=20),
    "frames.avif": lambda: avif(save_all=True, append_images=[small(size=(16, 16))] * 500),
    "size.avif": lambda: avif().replace(struct.pack(">II", 16, 16), struct.pack(">II", 2**31 - 1, 2**31 - 1)),
}
"""Files that would take seconds or gigabytes each if a decoder believed the header or unpacked the content."""

Image.init()
if "AVIF" not in Image.SAVE:  # it came to Pillow late
    del BASES["avif"]
    BOMBS = {name: file for name, file in BOMBS.items() if not name.endswith("avif")}

# Programs and documents: nothing that a reader of pictures should pass on.


def programs(canary: str) -> dict[str, bytes]:
    """Files by name that another program would run or render; one of them writes a file `canary` if it runs."""
    start = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n%%EndComments\n"
    writes = (
        start + f"({canary}) (w) file dup (run) writestring closefile\n".encode() + b"0 0 60 60 rectfill showpage\n"
    )
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    cards = (
        f"{key:8}= {value:>20}"
        for key, value in (("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 9), ("NAXIS2", 9))
    )
    return {
        "writes": writes,
        "loops": start + b"{} loop\n",
        "dos-eps": struct.pack("<4sIIIIIIH", b"\xc5\xd0\xd3\xc6", 32, len(writes), 0, 0, 0, 0, 0xFFFF).ljust(32)
        + writes,
        "postscript": b"%!PS\n" + writes,
        "postscript-then-png": b"%!PS\n" + saved(small(), "PNG") + writes,
        "pdf": pdf,
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/hosts"/></svg>',
        "fits": b"".join(f"{card:80}".encode() for card in (*cards, "END")).ljust(2880) + bytes(2880),
        "png-then-eps": saved(small(), "PNG") + writes,
        "png-then-pdf": saved(small(), "PNG") + pdf,
    }

"""The map of a catalogue: its contents, and the page that shows it, a single file that loads nothing."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simrec.contracts import Value
from simrec.single_file import parts, policy, shown

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 1 << 16
"""Width and height of a map in units: places are whole numbers below it."""

LEVELS = 19
"""Number of levels on which pictures appear, see `levels`."""

SPACING = 1 << 13
"""Minimum units between pictures on the coarsest level; each further level has them 1.41 times as close."""

NEVER = 255
"""The level of an item whose picture has no room on any level, and the colour of an item without a value."""

CLASSES = 24
"""Up to so many values get colours of their own."""

STEPS = 64
"""Number of colours in a scale."""

SHEET = 1024
"""Width and height of a sheet of pictures in pixels: 4 MB once a browser has decoded it."""

SHARP = 1 << 24
"""If all pictures together have fewer pixels, they are saved with finer detail: a few MB more don't matter then."""

TILES = ((128, 5_000), (96, 12_000), (64, 30_000), (48, 60_000), (32, 120_000), (24, 1 << 30))
"""A picture's longest edge in pixels, and the largest map that has it: a file of 100,000 items stays below 80 MB."""

LONGEST = 1000
"""Maximum characters of an id or a value in a map."""

_LIGHT = (
    "#2563eb", "#e11d48", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#65a30d", "#92400e", "#475569",
    "#c026d3", "#0f766e",
)  # fmt: skip
_DARK = (
    "#6ea8fe", "#fb7185", "#34d399", "#fbbf24", "#a78bfa", "#22d3ee", "#f472b6", "#a3e635", "#d9a066", "#94a3b8",
    "#e879f9", "#5eead4",
)  # fmt: skip
_LIGHT_SCALE = ("#4c1d95", "#2563eb", "#0d9488", "#65a30d", "#c2700a")
_DARK_SCALE = ("#8b7cff", "#60a5fa", "#2dd4bf", "#a3e635", "#fde047")


@dataclass(frozen=True)
class Colouring:
    """What the colours of a map mean.

    kind: "classes" if each of a few `names` has its own colour, "scale" if numbers from `low` to `high` run through
    STEPS colours, "one" if all items have the same colour. numbers (n,) uint8: each item's colour, NEVER for an item
    without a value. names: of the classes, the largest first.
    """

    kind: Literal["classes", "scale", "one"]
    numbers: NDArray[np.uint8]
    names: Sequence[str] = ()
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, values: Sequence[Value]) -> Colouring:
        """The colouring that suits the values (n,) of a field."""
        if not any(isinstance(value, str) and value for value in values):
            return cls._scale(values)
        counts: dict[str, int] = {}
        for value in values:
            if value is not None and value != "":
                counts[str(value)] = counts.get(str(value), 0) + 1
        if not 1 < len(counts) <= CLASSES:
            return cls("one", np.zeros(len(values), np.uint8))
        names = sorted(counts, key=lambda name: (-counts[name], name))
        places = {name: place for place, name in enumerate(names)}
        numbers = [places.get("" if value is None else str(value), NEVER) for value in values]
        return cls("classes", np.array(numbers, np.uint8), names)

    @classmethod
    def _scale(cls, values: Sequence[Value]) -> Colouring:
        floats = np.array([np.nan if value is None or value == "" else value for value in values], np.float64)
        there = np.isfinite(floats)
        known = floats[there]
        if not len(known) or known.min() == known.max():
            return cls("one", np.zeros(len(values), np.uint8))
        low, high = np.quantile(known, [0.02, 0.98])  # else a few odd prices leave one colour for all others
        if not low < high:
            low, high = known.min(), known.max()
        steps = np.clip((np.where(there, floats, low) - low) / (high - low) * STEPS, 0, STEPS - 1)
        return cls("scale", np.where(there, steps, NEVER).astype(np.uint8), low=float(low), high=float(high))

    def colours(self, *, dark: bool) -> list[str]:
        """The colour of each number as "#rrggbb", for a dark or a light background."""
        if self.kind == "scale":
            stops = np.array([_rgb(one) for one in (_DARK_SCALE if dark else _LIGHT_SCALE)], np.float64)
            where = np.linspace(0, len(stops) - 1, STEPS)
            channels = [np.interp(where, range(len(stops)), stops[:, channel]) for channel in range(3)]
            return [_hex(one) for one in np.stack(channels, axis=1)]
        if self.kind == "one":
            return [(_DARK if dark else _LIGHT)[1 if dark else 0]]
        own = list(_DARK if dark else _LIGHT)
        ink = np.array(_rgb("#ffffff" if dark else "#000000"))
        return [*own, *(_hex(0.55 * np.array(_rgb(one)) + 0.45 * ink) for one in own)][: len(self.names)]


@dataclass(frozen=True)
class Map:
    """A catalogue in two dimensions, n items.

    places (n, 2) uint16: across and down. levels (n,) uint8: see `levels`. neighbours (n, k) int32: the nearest items
    by their codes, nearest first, -1 if there are no more; scores (n, k) float32. values (n,): of the field called
    `label`. fields: the columns that the page shows of an item. facts: the line below the title. notes: paragraphs on
    how to read the map.
    """

    title: str
    facts: Sequence[str]
    notes: Sequence[str]
    ids: Sequence[str]
    label: str
    values: Sequence[Value]
    colouring: Colouring
    places: NDArray[np.uint16]
    levels: NDArray[np.uint8]
    neighbours: NDArray[np.int32]
    scores: NDArray[np.float32]
    fields: Mapping[str, Sequence[Value]]

    def __len__(self) -> int:
        return len(self.ids)

    def order(self) -> NDArray[np.int64]:
        """The items (n,) from coarse to fine levels; within a level, items close in the map are close in the file."""
        along = _spread_bits(self.places[:, 0]) | _spread_bits(self.places[:, 1]) << np.uint64(1)
        return np.lexsort((along, self.levels))


def levels(places: NDArray[np.uint16], weights: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The level (n,) on which each item's picture appears; NEVER for those that have no room even on the last one.

    On each level, any two pictures are at least SPACING / 1.41 ** level units apart, across or down, and no further
    picture would fit. weights (n,): items with larger weights are chosen earlier.
    """
    units = places.astype(np.float64)
    levels = np.full(len(places), NEVER, np.uint8)
    rest = np.argsort(-weights, kind="stable")
    for level in range(LEVELS):
        spacing = SPACING / 2 ** (level / 2)
        cells = (units / spacing).astype(np.int64) + 1
        width = int(SIDE / spacing) + 3
        keys = cells[:, 0] * width + cells[:, 1]
        grid = np.full(width * width, -1, np.int32)  # a cell is as wide as the spacing, so it holds one item
        there = np.flatnonzero(levels != NEVER)
        grid[keys[there]] = there
        # Items in every second cell across and down are a whole cell apart, so they can't be too close.
        for parity in range(4):
            some = rest[(cells[rest, 0] % 2 * 2 + cells[rest, 1] % 2) == parity]
            free = some[~_crowded(units, keys, grid, width, some, spacing)]
            _, first = np.unique(keys[free], return_index=True)
            chosen = free[first]
            levels[chosen] = level
            grid[keys[chosen]] = chosen
        rest = rest[levels[rest] == NEVER]
    return levels


def _crowded(
    places: NDArray[np.float64], keys: NDArray[np.int64], grid: NDArray[np.int32], width: int, some: NDArray[np.int64],
    spacing: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Whether each of some items is too close to an item in the grid."""
    crowded = np.zeros(len(some), np.bool_)
    for across in (-width, 0, width):
        for down in (-1, 0, 1):
            others = grid[keys[some] + across + down]
            apart = np.abs(places[some] - places[others]).max(axis=1)
            crowded |= (others >= 0) & (apart < spacing)
    return crowded


def edge(count: int) -> int:
    """A picture's longest edge, in pixels, in a map of so many items."""
    return next(pixels for pixels, most in TILES if count <= most)


class Tiles:
    """Small pictures in a file, by number: written as they come, read in any order.

    file: an empty one. edge: the longest edge in pixels.
    """

    def __init__(self, file: IO[bytes], edge: int) -> None:
        self._file, self.edge = file, edge
        block = 16 if edge >= 32 else 8
        self.cell = -(-edge // block) * block
        """Width and height of a picture's cell in a sheet, in pixels: whole JPEG blocks (16 if colours are coarser), so
        that no block belongs to two pictures."""
        self._size = 2 + 3 * edge * edge

    def put(self, number: int, picture: Image) -> None:
        """Keeps a picture, scaled down if it is too large."""
        small = picture.convert("RGB")
        small.thumbnail((self.edge, self.edge), reducing_gap=2)
        data = bytes(small.size) + small.tobytes()
        self._file.seek(number * self._size)
        self._file.write(data.ljust(self._size, b"\0"))

    def get(self, number: int) -> NDArray[np.uint8]:
        """A picture, (height, width, 3)."""
        self._file.seek(number * self._size)
        data = self._file.read(self._size).ljust(self._size, b"\0")
        width, height = max(data[0], 1), max(data[1], 1)  # a database may have lost an item meanwhile
        return np.frombuffer(data, np.uint8, 3 * width * height, 2).reshape(height, width, 3)

    def sheets(self, order: NDArray[np.int64], sizes: NDArray[np.uint8]) -> Iterator[bytes]:
        """Sheets as JPEG files with these pictures, row by row; fills sizes (n, 2) with their widths and heights."""
        from PIL import Image

        across = SHEET // self.cell
        sharp = len(order) * self.cell**2 < SHARP
        quality, coarser = (92, 0) if sharp or self.cell % 16 else (80, 2)
        for start in range(0, len(order), across * across):
            some = order[start : start + across * across]
            down = -(-len(some) // across)
            sheet = np.full((down * self.cell, across * self.cell, 3), 255, np.uint8)
            for place, number in enumerate(some.tolist()):
                picture = self.get(number)
                height, width = picture.shape[:2]
                top, left = place // across * self.cell, place % across * self.cell
                # Extend the picture's edge to the end of its block: a sharp step there would show in the picture.
                room = ((0, self.cell - height), (0, self.cell - width), (0, 0))
                sheet[top : top + self.cell, left : left + self.cell] = np.pad(picture, room, "edge")
                sizes[start + place] = width, height
            data = io.BytesIO()
            Image.fromarray(sheet).save(data, "JPEG", quality=quality, subsampling=coarser, optimize=True)
            yield data.getvalue()


def write(
    file: IO[bytes], drawn: Map, tiles: Tiles, progress: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Writes the page. tiles: the items' pictures, by number. progress: called with a stage, how many are done, of how
    many.

    The same map gives the same bytes.
    """
    page, style, script = parts("map")
    order = drawn.order()
    head, tail = page.split("$data")
    names = {"title": shown(drawn.title), "facts": " · ".join(map(shown, drawn.facts))}
    notes = "".join(f"<p>{shown(note)}</p>" for note in drawn.notes)
    file.write(
        Template(head)
        .substitute(names, policy=policy(style, script), style=style, notes=notes)
        .encode("utf-8", "backslashreplace")
    )
    sizes = np.zeros((len(order), 2), np.uint8)
    across = SHEET // tiles.cell
    for number, sheet in enumerate(tiles.sheets(order, sizes)):
        _data(file, "sheet", base64.b64encode(sheet))
        progress("writing", min((number + 1) * across * across, len(order)), len(order))
    back = np.empty(len(order) + 1, np.int32)
    back[order], back[-1] = np.arange(len(order)), -1
    for name, array in {
        "places": drawn.places[order].astype("<u2"),
        "levels": drawn.levels[order],
        "numbers": drawn.colouring.numbers[order],
        "sizes": sizes,
        "neighbours": back[drawn.neighbours[order]].astype("<i4"),
        "scores": np.rint(drawn.scores[order] * 1000).astype("<i2"),
    }.items():
        _data(file, name, base64.b64encode(array.tobytes()))
    _data(file, "ids", _json([drawn.ids[place] for place in order.tolist()]))
    _data(file, "values", _json([_kept(drawn.values[place]) for place in order.tolist()]))
    columns = {name: [_kept(column[place]) for place in order.tolist()] for name, column in drawn.fields.items()}
    _data(file, "fields", _json(columns))
    _data(file, "about", _json(_about(drawn, tiles)))
    file.write(Template(tail).substitute(script=script).encode())


def _about(drawn: Map, tiles: Tiles) -> dict[str, Any]:
    colouring = drawn.colouring
    counts = np.bincount(colouring.numbers, minlength=256)
    return {
        "title": drawn.title, "label": drawn.label, "count": len(drawn), "k": drawn.neighbours.shape[1],
        "kind": colouring.kind, "names": [name[:LONGEST] for name in colouring.names],
        "counts": [int(counts[number]) for number in range(len(colouring.names))],
        "low": colouring.low, "high": colouring.high,
        "light": colouring.colours(dark=False), "dark": colouring.colours(dark=True),
        "cell": tiles.cell, "across": SHEET // tiles.cell, "edge": tiles.edge,
        "side": SIDE, "spacing": SPACING, "steps": LEVELS,
    }  # fmt: skip


def _data(file: IO[bytes], name: str, data: bytes) -> None:
    """Writes a block of data into the page, which browsers don't run."""
    file.write(f'<script type="text/plain" class="{name}">'.encode() + data + b"</script>\n")


def _json(value: Any) -> bytes:
    """JSON that can't end the HTML element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").encode()


def _kept(value: Value) -> Value:
    """A value that JSON and JavaScript can hold."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"
    if value is None or not np.isfinite(value):
        return None
    return value if abs(value) < 2**53 else str(value)


def _spread_bits(numbers: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """The 16 bits of each number with a 0 before each bit: two of these interleaved are a place on the Morton curve."""
    spread = numbers.astype(np.uint64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        spread = (spread | spread << np.uint64(shift)) & np.uint64(mask)
    return spread


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hex(rgb: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(float(channel)):02x}" for channel in rgb)

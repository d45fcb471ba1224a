"""Answers as HTML: a report, which is one file to send, and a row of pictures for notebooks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from string import Template
from typing import IO, TYPE_CHECKING, Any, SupportsIndex, overload

from simrec.answers import columns, value_of
from simrec.contracts import Value
from simrec.display import Display, name_of, role_of, text_of
from simrec.errors import SimrecError, quantity
from simrec.queries import Match, Query
from simrec.single_file import parts, policy
from simrec.single_file import shown as _text

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 320
"""Longest edge of a report's pictures, in pixels: sharp also on screens with two pixels per CSS pixel."""

TINY = 64
"""Pictures with a longest edge below this are enlarged with square pixels."""

LARGEST = 200_000_000
"""Maximum bytes of a report; further queries are left out, because browsers open larger files too slowly."""

NOTEBOOK = 160
"""Longest edge of the pictures in a notebook, in pixels."""

MOST = 50
"""How many answers a notebook shows."""

_FIGURES = ("rank", "score", "percentile", "alike")

_OWN = (*_FIGURES, "id", "label")


class Report:
    """Writes a report while the answers come in; holds only one answer in memory.

    The file loads nothing from elsewhere; its content security policy allows only its own style and script.

    file: where to write it, as UTF-8. title, facts: its heading, and the line below. display: draws the pictures. show:
    the fields to show; if empty, all of an item's fields.
    """

    def __init__(
        self, file: IO[bytes], title: str, facts: Sequence[str], display: Display, show: Sequence[str] = ()
    ) -> None:
        self._file, self._display, self._show = file, display, show
        self.queries = self.answers = self.left_out = self.failed = self._written = 0
        page, style, script = parts("report")
        now = datetime.now().astimezone()
        facts = [*map(_text, facts), f'<time datetime="{now.isoformat("T", "seconds")}">{now:%Y-%m-%d %H:%M}</time>']
        head, tail = page.split("$answers")
        head = Template(head).substitute(
            policy=policy(style, script), title=_text(title), facts=" · ".join(facts), style=style
        )
        self._tail = Template(tail).substitute(script=script)
        self._write(head)

    def add(self, query: Query, matches: Sequence[Match], remarks: Sequence[str] = ()) -> None:
        """Writes one query's answer. remarks: notes about it for the reader. Beyond LARGEST it is only counted."""
        if self._written > LARGEST:
            self.left_out += 1
            return
        self.queries += 1
        self.answers += len(matches)
        words = "".join(f"<p>{_text(remark)}</p>\n" for remark in remarks)
        self._write(
            f'<section>\n<div class="query">\n{self._pictures(query)}'
            f'<div class="words"><h2>{_text(name_of(query))}</h2>\n{words}</div>\n</div>\n<div class="answers">\n'
        )
        self._write(self._table(matches) if matches else "<p>No item is similar enough.</p>\n")
        self._write("</div>\n</section>\n")

    def end(self) -> None:
        """Writes the end of the report: what it holds, what is missing, and what its figures mean."""
        said = [f"{quantity(self.queries, 'query', 'queries')}, {quantity(self.answers, 'answer', 'answers')}."]
        if self.left_out:
            further = quantity(self.left_out, "further query is", "further queries are")
            said.append(f"{further} left out to keep this file small.")
        if self.failed:
            said.append(f"{quantity(self.failed, 'query', 'queries')} could not be answered.")
        if why := self._display.why_small():
            said.append(why)
        said.append(
            "Score: higher is more alike. Percentile: the share of the catalogue's items that are farther from their "
            "nearest neighbour than this answer is from the query."
        )
        paragraphs = "\n".join(f"<p>{_text(one)}</p>" for one in said)
        self._write(f"<footer>\n{paragraphs}\n</footer>\n{self._tail}")

    def _pictures(self, query: Query) -> str:
        """A figure for each picture of a query; if there are several, with its name, its weight and "unlike"."""
        figures = []
        for part in query.parts or (query,):
            picture = self._display.of_query(part)
            drawn = "<p>No picture, only a code.</p>" if picture is None else _image(picture, EDGE, name_of(part))
            role = role_of(part)
            words = name_of(part) if role == "query" else f"{role}: {name_of(part)}"
            caption = f"<figcaption>{_text(words)}</figcaption>" if query.parts else ""
            start = '<figure class="unlike">' if part.unlike else "<figure>"
            figures.append(f"{start}{drawn}{caption}</figure>\n")
        return "".join(figures)

    def _table(self, matches: Sequence[Match]) -> str:
        fields = columns(self._show, _OWN) or columns((name for match in matches for name in match.fields), _OWN)
        own = [name for name in _OWN if any(_own(match, name) not in (None, "") for match in matches)]
        heads = "".join(
            f'<th role="columnheader" data-name="{_text(name)}">{_text(name)}</th>' for name in [*own, *fields.values()]
        )
        rows = "\n".join(self._row(match, own, fields) for match in matches)
        return (
            f'<table role="table">\n<thead role="rowgroup"><tr role="row">'
            f'<th role="columnheader">picture</th>{heads}</tr></thead>\n'
            f'<tbody role="rowgroup">\n{rows}\n</tbody>\n</table>\n'
        )

    def _row(self, match: Match, own: Sequence[str], fields: Mapping[str, str]) -> str:
        picture = _image(self._display.of_item(match.item), EDGE, match.id)
        cells = [_cell(name, _own(match, name), name) for name in own]
        cells += [_cell(column, value_of(match.item, name), "field") for name, column in fields.items()]
        return f'<tr role="row"><td role="cell" class="picture">{picture}</td>{"".join(cells)}</tr>'

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")  # file names can hold what UTF-8 can't
        self._file.write(data)
        self._written += len(data)


class Answer(list[Match]):
    """The matches of one query, best first: a list that a notebook shows as a row of pictures.

    display: gives what draws them at a given size; None for a copied or unpickled list, which is shown without
    pictures.
    """

    def __init__(self, matches: Iterable[Match] = (), display: Callable[[int], Display] | None = None) -> None:
        super().__init__(matches)
        self._display = display

    def __reduce__(self) -> tuple[type[Answer], tuple[list[Match]]]:
        return Answer, (list(self),)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Match: ...

    @overload
    def __getitem__(self, place: slice) -> Answer: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Match | Answer:
        value: Any = super().__getitem__(place)
        return Answer(value, self._display) if isinstance(place, slice) else value

    def _repr_html_(self) -> str:
        """The first MOST as a row of pictures, each with its rank, score, id, label and fields."""
        if not self:
            return "<p>No items.</p>"
        display = self._display and self._display(NOTEBOOK)
        tiles = "".join(_tile(match, display) for match in self[:MOST])
        more = f"<p>… and {len(self) - MOST:,} more</p>" if len(self) > MOST else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start">{tiles}</div>{more}'


def _tile(match: Match, display: Display | None) -> str:
    """One match as a notebook shows it, with inline styles."""
    try:
        look = "height:160px;width:100%;object-fit:contain;margin:0 0 4px"
        picture = _image(display.of_item(match.item), NOTEBOOK, match.id, look) if display else ""
    except SimrecError as error:
        picture = f"<p>{_text(str(error))}</p>"
    lines = [
        f"<b>{match.rank}.</b> {match.score:.3f}", _text(match.id), *([_text(match.label)] if match.label else []),
        *(f"{_text(name)}: {_text(text_of(value))}" for name, value in match.fields.items() if value is not None),
    ]  # fmt: skip
    return (
        f'<div style="width:160px;font-size:12px;line-height:1.4;overflow-wrap:anywhere">{picture}'
        f"{'<br>'.join(lines)}</div>"
    )


def _own(match: Match, name: str) -> Value:
    value: Value = getattr(match, name)
    return value


def _cell(name: str, value: Value, kind: str) -> str:
    """A table cell, with the number to sort by. kind: its class in the style sheet."""
    numeric = isinstance(value, int | float) and math.isfinite(value)
    exact = f' data-value="{value!r}"' if numeric else ""
    classes = [
        kind, *(["figure"] if kind in _FIGURES else []), *(["number"] if numeric else []),
        *(["empty"] if value in (None, "") else []),
    ]  # fmt: skip
    digits = {"score": 3, "percentile": 1}.get(kind)
    text = _text(f"{value:.{digits}f}" if digits and isinstance(value, float) else text_of(value))
    if kind == "id":
        folder, slash, leaf = text.rpartition("/")
        text = f"<span>{folder}{slash}</span>{leaf}" if folder and leaf else text
    return f'<td role="cell" class="{" ".join(classes)}" data-name="{_text(name)}"{exact}>{text}</td>'


def _image(picture: Image, edge: int, alt: str, style: str = "") -> str:
    """A picture as an element with its data inline: encoded again, without the file's metadata."""
    small = picture.convert("RGB") if picture.mode not in ("L", "RGB") else picture.copy()
    small.info = {}
    small.thumbnail((edge, edge), reducing_gap=2)
    kind = "PNG" if max(small.size) < TINY else "JPEG"
    data = io.BytesIO()
    small.save(data, kind, quality=85)
    look = f' style="{style}"' if style else ' class="tiny"' if kind == "PNG" else ""
    return (
        f'<img src="data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}" '
        f'alt="{_text(alt)}" width="{small.width}" height="{small.height}"{look}>'
    )

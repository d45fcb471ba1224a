"""Pictures in a terminal: a real pseudo-terminal that answers like terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simrec.cli.pictures import COLUMNS, HALVES, ROWS, _halves, _strip

BLOCKS = ("▀", "▄")
SIXEL = b"\x1bP"


def terminal(*words: object, can: bytes = b"62", stdin: Path | None = None, **settings: str) -> bytes:
    """What `similar` sends to a terminal of 60 columns. can: what it says that it can. stdin: instead of its keys."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 600, 800))
    command = [sys.executable, "-m", "simrec", "similar", *map(str, words), "--index", "demo", "-n", "2"]
    keys = os.open(stdin, os.O_RDONLY) if stdin else theirs
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **settings}
    sent = b""
    with subprocess.Popen(command, stdin=keys, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as asked:
        for handle in {keys, theirs}:
            os.close(handle)
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux's word for the end
                break
            if not part:
                break
            sent += part
            if b"\x1b[c" in part:
                os.write(ours, b"\x1b[?%s;22c" % can)
    os.close(ours)
    assert asked.returncode == 0
    assert b"test/0" in sent
    return sent


def drawn(sent: bytes) -> bool:
    return any(block.encode() in sent for block in BLOCKS)


def test_a_terminal_with_colours_shows_the_query_and_its_matches_in_half_blocks(shoe: Path) -> None:
    sent = terminal(shoe)
    assert drawn(sent)
    assert SIXEL not in sent
    assert "query           1.  " in sent.decode()


def test_a_terminal_that_can_draw_is_sent_graphics(shoe: Path) -> None:
    pytest.importorskip("textual_image")
    sent = terminal(shoe, can=b"62;4")
    assert SIXEL in sent
    assert not drawn(sent)


def test_a_picture_from_a_pipe_is_read_and_shown_all_the_same(shoe: Path) -> None:
    sent = terminal("-", stdin=shoe, can=b"62;4")
    assert drawn(sent)
    assert b"\x1b[c" not in sent  # nobody could read the answer


@pytest.mark.parametrize(
    ("words", "settings"), [(["--no-pictures"], {}), (["--format", "paths"], {}), ([], {"NO_COLOR": "1"})]
)
def test_no_pictures_where_they_are_not_wanted(shoe: Path, words: list[str], settings: dict[str, str]) -> None:
    sent = terminal(shoe, *words, **settings)
    assert not drawn(sent)
    assert b"\x1b[c" not in sent


def test_a_pipe_gets_only_answers_and_nothing_is_imported_to_draw(shoe: Path) -> None:
    code = (
        "import sys\nfrom simrec.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n"
        "    print({'rich', 'textual_image', 'torch'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "similar", str(shoe), "--index", "demo", "-n", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [row["rank"] for row in json.loads(done.stdout)] == [1]
    assert done.stderr == "set()\n"


def test_half_blocks_have_the_pictures_colours_and_nothing_where_there_is_no_picture() -> None:
    picture = Image.new("RGB", (600, 600), (250, 0, 10))
    text = _halves(_strip([picture, None], HALVES))
    lines = text.plain.split("\n")
    assert len(lines) == ROWS
    assert {len(line) for line in lines} == {2 * COLUMNS + 1}
    assert all(line[COLUMNS:].isspace() for line in lines)
    assert np.mean([character in BLOCKS for line in lines for character in line[:COLUMNS]]) > 0.9
    assert {str(span.style) for span in text.spans} <= {"#fa000a", "#fa000a on #fa000a"}

"""The command `simrec`, also as `python -m simrec`."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Runs the command line: see `simrec.cli.main`. Ctrl-C ends it quietly even before it has been imported."""
    atexit.register(gc.freeze)  # else every command would end with a search for garbage among all that is left
    try:
        from simrec.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

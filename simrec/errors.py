"""Everything simrec raises on purpose.

    SimrecError
    ├── RequestError      a name or setting that does not exist (with a suggestion), or a request that can't be met
    ├── PluginError       a plugin that is missing, broken, or breaks its contract
    │   └── NotInstalledError  one that needs what only an extra installs, such as `simrec[train]`
    ├── ImageError        a file that is not a picture simrec can read
    ├── DataError         a source of pictures that is not there or not what it should be
    │   └── EmptyError    one without a picture
    ├── TrainingError     a training that cannot go on, or an export that disagrees with it
    └── StoreError        a recommender on disk that cannot be read or written
        ├── BusyError     one that another process is writing
        └── VersionError  one, or a container of codes, written by a newer simrec

Each message is one sentence that says what went wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten


class SimrecError(Exception):
    """The root: catch this to catch them all."""


class RequestError(SimrecError):
    """A name or setting that does not exist, or a request that cannot be met."""


class PluginError(SimrecError):
    """A plugin that is missing, broken, or breaks its contract."""


class NotInstalledError(PluginError):
    """Something that needs a package of an extra, such as `train`, which is not installed."""


class ImageError(SimrecError):
    """A file that is not a picture simrec can read."""


class DataError(SimrecError):
    """A source of pictures that is not there or not what it should be."""


class EmptyError(DataError):
    """A source without a picture."""


class TrainingError(SimrecError):
    """A training that cannot go on, or an export that disagrees with the network."""


class StoreError(SimrecError):
    """A recommender on disk that cannot be read or written."""


class BusyError(StoreError):
    """A recommender that another process is writing."""


class VersionError(StoreError):
    """A recommender or a container of codes that a newer simrec wrote."""


MOVED = {
    "simrec.autoencoder": "simrec.learning.autoencoder",
    "simrec.networks": "simrec.learning.networks",
    "simrec.datasets": "simrec.sources.load",
}
"""Modules of an older simrec that plugins imported, and where they are now."""


TRAINING = ("torch", "torchvision", "onnxscript")
"""Modules of the extra `train`; looking up doesn't need them, and neither do encoders such as `pca`."""

EXTRAS = {
    **dict.fromkeys(TRAINING, "train"),
    **dict.fromkeys(("psycopg", "pgvector"), "pgvector"),
    "lancedb": "lancedb",
    "pacmap": "map",
    "qdrant_client": "qdrant",
    **dict.fromkeys(("starlette", "uvicorn", "python_multipart"), "serve"),
}
"""The extra that installs a module."""


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: the closest name, else all known names."""
    names = sorted(known)
    close = get_close_matches(wrong, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if names:
        return f"there is {', '.join(names)}"
    return "there is none"


def quantity(number: int, one: str, more: str = "") -> str:
    """A number of things, for a sentence: "1 item", "1,179 items". more: the plural, if it isn't `one` with an "s"."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def needs(module: str) -> str:
    """The end of a sentence about something that needs a module of `EXTRAS`, which is not installed."""
    return f"needs {module}, which is not installed: pip install 'simrec[{EXTRAS[module]}]'"


def missing(error: BaseException) -> str | None:
    """The module of `EXTRAS` that is missing, if that is the error; else None."""
    return error.name if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS else None


def reason(error: BaseException) -> str:
    """An error, mostly from another library, as part of a sentence, with a remedy if simrec knows one."""
    if "torchvision::nms" in str(error):
        return (
            "torch and torchvision do not fit together (operator torchvision::nms does not exist): "
            "install both from one place, 'pip install --force-reinstall torch torchvision'"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in MOVED:
        return f"{error}: it is {MOVED[error.name]} now: change the plugin's import"
    if module := missing(error):
        return f"it {needs(module)}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package, dot, _ = error.name.partition(".")
        if dot:  # the package itself is there
            return f"{error}: {package} has no such module: correct the name, or install another release of {package}"
        return f"{error}: 'pip install {package}'"
    if isinstance(error, SimrecError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    said = shorten(str(error), 300)  # the last lines of a message, as in pluggy's, can matter most
    return f"{type(error).__name__}: {said}" if said else type(error).__name__

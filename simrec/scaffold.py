"""Writes a new plugin from the files in `simrec/templates/plugin`: those in `shared` and those of its kind.

In them `$name` stands for the plugin's name, `$package` for its package, `$needs` for the simrec its kind needs, with
torch or without, and `$simrec` for the version of simrec that wrote it; `package` in a path stands for its package too.
"""

from __future__ import annotations

import keyword
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from string import Template

from simrec import files, host
from simrec.contracts import EncoderSpec
from simrec.errors import RequestError, suggestion

TEMPLATES = Path(__file__).parent / "templates" / "plugin"

KINDS = {"autoencoder": "simrec[train]", "numpy": "simrec"}
"""What a plugin of each kind depends on."""


def write(name: str, kind: str, folder: Path) -> list[Path]:
    """Writes a plugin into a folder that is not there, or empty; gives the files' paths in it, sorted.

    name: of its distribution, its encoder and, with '_' for '-', its package. kind: one of `KINDS`. Raises
    RequestError for a kind that does not exist and a name that cannot be, or is taken, StoreError when the folder
    cannot be written or holds something; nothing is then left behind.
    """
    if kind not in KINDS:
        raise RequestError(f"no kind {kind!r} of plugin: {suggestion(kind, KINDS)}")
    package = _package(name)
    filling = {"name": name, "package": package, "needs": KINDS[kind], "simrec": version("simrec")}
    with files.making(folder) as staging:
        for part in (TEMPLATES / "shared", TEMPLATES / kind):
            for path in sorted(part.rglob("*")):
                if path.is_dir() or path.suffix == ".pyc":
                    continue
                made = staging / str(path.relative_to(part)).replace("package", package)
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_text(Template(path.read_text(encoding="utf-8")).substitute(filling), encoding="utf-8")
        return sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())


def _package(name: str) -> str:
    """The package of a plugin of that name. Raises RequestError when the name cannot be, or is taken."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name) or keyword.iskeyword(package):
        raise RequestError(
            f"{name!r} cannot name a package: use lower-case letters, digits, '-' and '_', a letter first, and no word "
            f"of Python's own"
        )
    found = host.discover()
    for offer in found.of(EncoderSpec):
        if offer.spec.name == name:
            raise RequestError(f"{name!r} is taken: it is an encoder of {offer.provider}: choose another name")
    for failure in found.failures:
        if failure.plugin == name:
            raise RequestError(f"{name!r} is taken: {failure}: choose another name, or uninstall it")
    spec = find_spec(package)
    if spec and spec.origin:  # a mere folder, which Python takes for a package too, has no origin
        raise RequestError(f"{name!r} is taken: there is a Python module {package!r} ({spec.origin}): choose another")
    return package

"""Writes a new plugin from the files in `simrec/templates/plugin`: those in `shared` and those of its kind.

In these files `$name` stands for the plugin's name, `$package` for its package, `$needs` for the simrec it depends on
(with torch or without) and `$simrec` for the version of simrec that wrote it. `package` in a path stands for its
package too.
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
    """Writes a plugin into a new or empty folder; returns the files' paths in it, sorted.

    name: of its distribution, its encoder and, with '_' for '-', its package. kind: one of `KINDS`. Raises RequestError
    for an unknown kind and for a name that is invalid or taken, StoreError if the folder can't be written or isn't
    empty; then nothing is left behind.
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
    """The package of a plugin with that name. Raises RequestError if the name is invalid or taken."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z]([a-z0-9_-]*[a-z0-9])?", name) or keyword.iskeyword(package):
        raise RequestError(
            f"{name!r} cannot name a package: use lower-case letters, digits, '-' and '_', start with a letter, and "
            f"avoid Python's keywords"
        )
    installed = host.discover()
    for offer in installed.of(EncoderSpec):
        if offer.spec.name == name:
            raise RequestError(f"{name!r} is taken: it is an encoder of {offer.provider}: choose another name")
    for failure in installed.failures:
        if failure.plugin == name:
            raise RequestError(f"{name!r} is taken: {failure}: choose another name, or uninstall it")
    spec = find_spec(package)
    if spec and spec.origin:  # a plain folder, which Python takes for a package too, has no origin
        raise RequestError(f"{name!r} is taken: there is a Python module {package!r} ({spec.origin}): choose another")
    return package

"""An encoder's settings: converts its frozen dataclass from and to `key=value` texts and JSON, and describes it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from simrec.errors import RequestError, suggestion


def choose(presets: Mapping[str, Any], preset: str, changes: Mapping[str, str], encoder: str) -> Any:
    """The preset's settings with the changes applied.

    Raises RequestError for a preset or setting that does not exist (with a suggestion) or a value of another type.
    """
    if preset not in presets:
        raise RequestError(f"encoder {encoder!r} has no preset {preset!r}: {suggestion(preset, presets)}")
    settings = presets[preset]
    hints = get_type_hints(type(settings))
    known = [f.name for f in fields(settings)]
    values = {}
    for key, text in changes.items():
        if key not in known:
            raise RequestError(f"encoder {encoder!r} has no setting {key!r}: {suggestion(key, known)}")
        try:
            values[key] = _parse(text, hints[key])
        except ValueError:
            raise RequestError(
                f"setting {key!r} of encoder {encoder!r} cannot be {text!r}: it takes {_describe(hints[key])}"
            ) from None
    try:
        return replace(settings, **values)
    except ValueError as error:
        raise RequestError(f"encoder {encoder!r}: {error}") from error


def to_json(settings: Any) -> dict[str, Any]:
    """The settings as JSON values (tuples become lists)."""
    return asdict(settings)


def from_json(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """The settings that `to_json` wrote; fields that were added since keep their defaults."""
    known = {f.name for f in fields(kind)}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})


@dataclass(frozen=True)
class Setting:
    """One setting as people see it. default: as `key=value` takes it. doc: its line of documentation."""

    name: str
    default: str
    doc: str


def described(kind: type[Any]) -> list[Setting]:
    """The settings of a dataclass, in its order."""
    return [Setting(f.name, to_text(f.default), f.metadata.get("doc", "")) for f in fields(kind)]


def changed(kind: type[Any], preset: Any) -> dict[str, str]:
    """The settings in which a preset differs from the dataclass's defaults, as texts by name."""
    values = {f.name: (f.default, getattr(preset, f.name)) for f in fields(kind)}
    return {name: to_text(value) for name, (default, value) in values.items() if value != default}


def to_text(value: Any) -> str:
    """A setting's value as `key=value` takes it."""
    if isinstance(value, tuple):
        return ",".join(to_text(part) for part in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse(text: str, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in args:
            return None
        return _parse(text, next(a for a in args if a is not type(None)))
    if origin is Literal:
        if text not in args:
            raise ValueError
        return text
    if origin is tuple:
        return tuple(_parse(part.strip(), args[0]) for part in text.split(",") if part.strip())
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]
    if hint in (int, float, str):
        return hint(text)
    raise ValueError


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _describe(a) for a in args)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is tuple:
        return f"{_describe(args[0])}, several separated by commas"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "text")

"""Finds and loads the plugins one by one: a broken one is recorded with the reason, and the others still work.

The environment variable SIMREC_PLUGINS chooses which are loaded: names of entry points or distributions, separated by
commas; "" loads none. If it is not set, all are loaded. simrec's own sources and exporters always are.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import pluggy

from simrec import hookspecs
from simrec.contracts import EncoderSpec, EngineSpec, ExporterSpec, SourceSpec, Spec
from simrec.errors import NotInstalledError, PluginError, RequestError, missing, needs, reason, suggestion

GROUP = "simrec"

CHOICE = "SIMREC_PLUGINS"

HOOKS: dict[str, type[Spec]] = {
    "simrec_encoders": EncoderSpec,
    "simrec_sources": SourceSpec,
    "simrec_exporters": ExporterSpec,
    "simrec_engines": EngineSpec,
}
"""The kind of specs that each hook returns."""

ENCODER = ("Settings", "presets", "fit", "encode", "save", "load")
"""What a class must have to be usable as an encoder."""

S = TypeVar("S", EncoderSpec, SourceSpec, ExporterSpec, EngineSpec)


@dataclass(frozen=True)
class Offer(Generic[S]):
    """Something that a plugin offers, and its distribution ("name version")."""

    spec: S
    provider: str

    def __str__(self) -> str:
        return f"{self.spec.kind} {self.spec.name!r} ({self.provider})"


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded: its entry point, its distribution ("name version") and the reason."""

    plugin: str
    provider: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.provider}) could not be loaded: {self.reason}"


@dataclass(frozen=True)
class Host:
    """All that the loaded plugins offer, the plugins that failed, and entry points that SIMREC_PLUGINS leaves out."""

    offers: tuple[Offer[Any], ...]
    failures: tuple[Failure, ...]
    left_out: tuple[str, ...]

    def of(self, kind: type[S]) -> list[Offer[S]]:
        """The offers of one kind: `EncoderSpec` gives the encoders, and so on."""
        return [offer for offer in self.offers if isinstance(offer.spec, kind)]

    def names(self, kind: type[S]) -> list[str]:
        """The names of the offers of one kind."""
        return [offer.spec.name for offer in self.of(kind)]

    def find(self, kind: type[S], name: str) -> Offer[S]:
        """The one offer of that kind and name.

        Raises PluginError if there is none (it suggests the closest name, or names the broken plugin that would offer
        it), or if two distributions offer it.
        """
        offers = [offer for offer in self.of(kind) if offer.spec.name == name]
        if len(offers) == 1:
            return offers[0]
        if offers:
            raise PluginError(_conflict(kind.kind, name, offers))
        self.check_loaded(name)
        raise PluginError(f"no {kind.kind} {name!r}: {suggestion(name, self.names(kind))}{self.hidden}")

    def check_loaded(self, name: str) -> None:
        """Raises PluginError with the reason if a plugin of that name could not be loaded."""
        for failure in self.failures:
            if failure.plugin == name:
                raise PluginError(f"{failure}; fix or uninstall it")

    @property
    def hidden(self) -> str:
        """The end of a sentence about a name that doesn't exist: which plugins aren't loaded, "" if all are."""
        said = f" ({CHOICE} leaves out {', '.join(self.left_out)})" if self.left_out else ""
        if self.failures:
            said += " (some plugins could not be loaded: 'simrec plugins list' says why)"
        return said

    @property
    def conflicts(self) -> tuple[str, ...]:
        """A sentence for each name that more than one plugin offers."""
        called: dict[tuple[str, str], list[Offer[Any]]] = defaultdict(list)
        for offer in self.offers:
            called[offer.spec.kind, offer.spec.name].append(offer)
        return tuple(_conflict(*name, offers) for name, offers in sorted(called.items()) if len(offers) > 1)


def discover() -> Host:
    """Loads the plugins in the entry-point group `simrec`, once per process.

    Raises RequestError if SIMREC_PLUGINS names something that isn't installed.
    """
    return _discover(os.environ.get(CHOICE), None)


def discover_only(distribution: str) -> Host:
    """Loads only the plugins of one distribution, so that no other plugin can get in the way.

    Raises what `discover` raises.
    """
    return _discover(os.environ.get(CHOICE), _normal(distribution))


def imported(offer: Offer[Any], place: str = "") -> Any:
    """Imports the code behind an offer: its factory, or another "package.module:name" that its spec names.

    Raises PluginError, which names the distribution, if that fails; NotInstalledError if a package of an extra is
    missing.
    """
    place = place or offer.spec.factory
    module, _, attribute = place.partition(":")
    try:
        value = getattr(import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if module := missing(error):
            raise NotInstalledError(f"{offer} {needs(module)}") from error
        raise PluginError(f"{offer} cannot be used: {reason(error)}") from error
    if not callable(value):
        raise PluginError(f"{offer} cannot be used: {place} cannot be called: fix the plugin")
    return value


def encoder_class(offer: Offer[EncoderSpec]) -> type[Any]:
    """Imports the class behind an encoder. Raises what `imported` raises, and PluginError if it isn't an encoder."""
    class_: type[Any] = imported(offer)
    if absent := [name for name in ENCODER if not hasattr(class_, name)]:
        raise PluginError(f"{offer} cannot be used: {offer.spec.factory} has no {', '.join(absent)}: fix the plugin")
    presets = class_.presets
    if not isinstance(presets, Mapping) or any(type(preset) is not class_.Settings for preset in presets.values()):
        raise PluginError(f"{offer} cannot be used: its presets are no dict of names and Settings: fix the plugin")
    return class_


def entries() -> list[EntryPoint]:
    """The entry points to load, in order. Raises what `discover` raises."""
    return _chosen(_installed(), os.environ.get(CHOICE))


def provider(entry: EntryPoint) -> str:
    """The distribution of an entry point: "name version"."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"


@cache
def _discover(choice: str | None, distribution: str | None) -> Host:
    installed = _installed()
    chosen = _chosen(installed, choice)
    offers: list[Offer[Any]] = []
    failures: list[Failure] = []
    for entry in chosen:
        if distribution not in (None, _distribution(entry)):
            continue
        try:
            offers += [Offer(spec, provider(entry)) for spec in _specs(entry)]
        except KeyboardInterrupt:
            raise
        # A plugin may raise anything, even SystemExit; it must not stop the other plugins.
        except BaseException as error:
            failures.append(Failure(entry.name, provider(entry), reason(error)))
    kinds = list(HOOKS.values())
    offers.sort(key=lambda offer: kinds.index(type(offer.spec)))
    return Host(tuple(offers), tuple(failures), tuple(entry.name for entry in installed if entry not in chosen))


def _installed() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: (provider(entry), entry.name))


def _chosen(installed: Iterable[EntryPoint], choice: str | None) -> list[EntryPoint]:
    if choice is None:
        return list(installed)
    wanted = {_normal(name.strip()) for name in choice.split(",") if name.strip()}
    known = {_normal(entry.name) for entry in installed} | {_distribution(entry) for entry in installed}
    for name in sorted(wanted - known):
        raise RequestError(f"{CHOICE} names {name!r}, which is not installed: {suggestion(name, known)}")
    return [
        entry for entry in installed if wanted & {_normal(entry.name), _distribution(entry)} or _is_simrec_itself(entry)
    ]


def _specs(entry: EntryPoint) -> Iterator[Spec]:
    # One manager per plugin: pluggy does not isolate plugins, and we must know whose answer a hook's answer is.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    plugin = entry.load()
    manager.register(plugin, name=entry.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}: the hooks are {', '.join(HOOKS)}") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError(f"it implements no hook: mark 'def {next(iter(HOOKS))}()' with @hookimpl")
    for hook, kind in HOOKS.items():
        caller = getattr(manager.hook, hook)
        answers = caller()
        if len(answers) < len(caller.get_hookimpls()):  # pluggy drops an answer that is None
            raise PluginError(f"{hook} returned None: it must return a list of {kind.__name__}")
        for specs in answers:
            if not isinstance(specs, Iterable):
                raise PluginError(f"{hook} returned {type(specs).__name__}: it must return a list of {kind.__name__}")
            for spec in specs:
                if not isinstance(spec, kind):
                    raise PluginError(f"{hook} returned {spec!r}, which is no {kind.__name__}")
                yield spec


def _conflict(kind: str, name: str, offers: Iterable[Offer[Any]]) -> str:
    first, *others = dict.fromkeys(offer.provider for offer in offers)
    if not others:
        return f"{kind} {name!r} is offered twice by {first}: fix the plugin, or leave it out with {CHOICE}"
    both = " and ".join([first, *others])
    return f"{kind} {name!r} is offered by {both}: uninstall one of them, or leave one out with {CHOICE}"


def _is_simrec_itself(entry: EntryPoint) -> bool:
    return entry.module.partition(".")[0] == "simrec"


def _distribution(entry: EntryPoint) -> str:
    return _normal(entry.dist.name) if entry.dist else ""


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it: "My_Plugin" becomes "my-plugin"."""
    return re.sub(r"[-_.]+", "-", name).lower()

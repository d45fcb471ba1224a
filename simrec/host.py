"""Finds the plugins, each by itself: a broken one is kept as a failure with its reason and harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from simrec import hookspecs
from simrec.contracts import EncoderSpec
from simrec.errors import PluginError, reason, suggestion

GROUP = "simrec"


@dataclass(frozen=True)
class Offer:
    """An encoder and the distribution ("name version") that offers it."""

    spec: EncoderSpec
    provider: str


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
    """All that the installed plugins offer, and those that failed."""

    offers: tuple[Offer, ...]
    failures: tuple[Failure, ...]

    def encoder(self, name: str) -> Offer:
        """The one offer of that name.

        Raises PluginError when there is none (naming the near miss, or the broken plugin that would offer it) or
        when two distributions offer it.
        """
        found = [offer for offer in self.offers if offer.spec.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            both = " and ".join(offer.provider for offer in found)
            raise PluginError(f"encoder {name!r} is offered by {both}: uninstall one of them")
        for failure in self.failures:
            if failure.plugin == name:
                raise PluginError(f"{failure}; mend or uninstall it")
        raise PluginError(f"no encoder {name!r}: {suggestion(name, (o.spec.name for o in self.offers))}")


@cache
def discover() -> Host:
    """Loads every plugin in the entry-point group `simrec`."""
    offers: list[Offer] = []
    failures: list[Failure] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (_provider(e), e.name)):
        try:
            offers += [Offer(spec, _provider(entry)) for spec in _encoders(entry)]
        # A plugin may raise anything, sys.exit included; whatever it is stays its own.
        except (Exception, SystemExit) as error:
            failures.append(Failure(entry.name, _provider(entry), reason(error)))
    return Host(tuple(offers), tuple(failures))


def encoder_class(offer: Offer) -> type[Any]:
    """Imports the class behind an offer. Raises PluginError, naming the distribution, when that fails."""
    module, _, attribute = offer.spec.factory.partition(":")
    try:
        found: type[Any] = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise PluginError(f"encoder {offer.spec.name!r} ({offer.provider}) cannot be used: {reason(error)}") from error
    return found


def _encoders(entry: EntryPoint) -> Iterator[EncoderSpec]:
    # One manager a plugin: pluggy does not isolate, and a hook's answer must be known to be this plugin's.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(entry.load(), name=entry.name)
    manager.check_pending()
    implementations = manager.hook.simrec_encoders.get_hookimpls()
    answers = manager.hook.simrec_encoders()
    if not implementations:
        raise PluginError("it implements no hook: mark 'def simrec_encoders()' with @hookimpl")
    if len(answers) < len(implementations):  # pluggy drops an answer that is None
        raise PluginError("simrec_encoders returned None: it must return a list of EncoderSpec")
    for specs in answers:
        for spec in specs:
            if not isinstance(spec, EncoderSpec):
                raise PluginError(f"simrec_encoders returned {spec!r}, which is no EncoderSpec")
            yield spec


def _provider(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"

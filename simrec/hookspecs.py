"""The hooks that a plugin may implement, and the decorator that marks them."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from simrec.contracts import EncoderSpec, EngineSpec, ExporterSpec, SourceSpec

hookspec = pluggy.HookspecMarker("simrec")
hookimpl = pluggy.HookimplMarker("simrec")


@hookspec
def simrec_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """The encoders this plugin offers.

    >>> from simrec.contracts import EncoderSpec
    >>> from simrec.hookspecs import hookimpl
    >>> @hookimpl
    ... def simrec_encoders():
    ...     return [EncoderSpec("mine", "What it is, in a line.", "my_package.model:Mine")]
    """


@hookspec
def simrec_sources() -> Iterable[SourceSpec]:  # type: ignore[empty-body]
    """The sources of pictures this plugin offers.

    >>> from simrec.contracts import SourceSpec
    >>> from simrec.hookspecs import hookimpl
    >>> @hookimpl
    ... def simrec_sources():
    ...     return [SourceSpec("our-shop", "Pictures of our shop; also :winter.", "my_package.shop:Shop")]
    """


@hookspec
def simrec_exporters() -> Iterable[ExporterSpec]:  # type: ignore[empty-body]
    """The export formats that this plugin offers.

    >>> from simrec.contracts import ExporterSpec
    >>> from simrec.hookspecs import hookimpl
    >>> @hookimpl
    ... def simrec_exporters():
    ...     return [ExporterSpec("arff", "Tables for Weka.", "my_package.arff:write", endings=(".arff",))]
    """


@hookspec
def simrec_engines() -> Iterable[EngineSpec]:  # type: ignore[empty-body]
    """The databases that a catalogue can live in with this plugin.

    >>> from simrec.contracts import EngineSpec
    >>> from simrec.hookspecs import hookimpl
    >>> @hookimpl
    ... def simrec_engines():
    ...     return [EngineSpec("our-database", "Tables of our database.", "my_package.database:Table")]
    """

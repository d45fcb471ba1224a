"""The hooks a plugin may implement, and the marker it does so with."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from simrec.contracts import EncoderSpec, SourceSpec

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
    ...     return [SourceSpec("our-shop", "Pictures of our shop; also :winter.", "my_package.shop:pictures")]
    """

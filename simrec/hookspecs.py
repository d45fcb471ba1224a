"""The hooks a plugin may implement, and the marker it does so with."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from simrec.contracts import EncoderSpec

hookspec = pluggy.HookspecMarker("simrec")
hookimpl = pluggy.HookimplMarker("simrec")


@hookspec
def simrec_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """The encoders this plugin offers: `return [EncoderSpec("mine", "What it is.", "my_package.model:Mine")]`."""

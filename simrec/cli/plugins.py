"""`simrec plugins list`, `show` and `new`; `check` is in `simrec.cli.checking`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simrec.cli.checking import check
from simrec.cli.terminal import Session, format_option, say, table

if TYPE_CHECKING:
    from simrec.contracts import EncoderSpec
    from simrec.host import Offer


@click.group()
def plugins() -> None:
    """See what is installed; write and check your own encoder.

    SIMREC_PLUGINS chooses which plugins are loaded: names of plugins or distributions, separated by commas; "" loads
    none. If it is not set, all are loaded. simrec's own sources always are.
    """


@plugins.command("list")
@format_option
def list_(form: str) -> int:
    """List what is installed and what is broken.

    Each line names the distribution that offers it. The exit status is 1 if a plugin could not be loaded or two offer
    the same name; the others still work.
    """
    from simrec import host

    installed = host.discover()
    offers = installed.offers
    if form == "json":
        answer = {
            "plugins": [{"kind": o.spec.kind, **asdict(o.spec), "distribution": o.provider} for o in offers],
            "failures": [
                {"plugin": f.plugin, "distribution": f.provider, "reason": f.reason} for f in installed.failures
            ],
            "conflicts": list(installed.conflicts),
            "left_out": list(installed.left_out),
        }  # fmt: skip
        say(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        rows = [[offer.spec.name, offer.spec.kind, offer.provider, offer.spec.summary] for offer in offers]
        table(["name", "kind", "distribution", "summary"], rows)
        for problem in (*installed.failures, *installed.conflicts):
            say(f"Broken: {problem}")
        if installed.left_out:
            say(f"Left out by {host.CHOICE}: {', '.join(installed.left_out)}")
    return 1 if installed.failures or installed.conflicts else 0


@plugins.command()
@click.argument("name")
@format_option
@click.pass_obj
def show(session: Session, name: str, form: str) -> None:
    """Explain an encoder, its settings and presets."""
    from simrec import host
    from simrec.contracts import EncoderSpec, SourceSpec

    installed = host.discover()
    if name in installed.names(SourceSpec) and name not in installed.names(EncoderSpec):
        source = installed.find(SourceSpec, name)
        answer = {**asdict(source.spec), "distribution": source.provider}
        if form == "table":
            say(f"{name}: {source.spec.summary}\n")
            use = f"simrec train ENCODER --data {name}[:TEXT]"
            table(["", ""], [["use", use], *_origin(answer)])
    else:
        answer = _encoder(session, installed.find(EncoderSpec, name))
        if form == "table":
            _print_encoder(answer)
    if form == "json":
        say(json.dumps(answer, indent=1, ensure_ascii=False))


def _encoder(session: Session, offer: Offer[EncoderSpec]) -> dict[str, Any]:
    from simrec import host, library, settings
    from simrec.faults import blamed_on

    kind = host.encoder_class(offer)
    trained = [r.name for r in library.listing(session.home, lambda _: None) if _made_by(r.manifest.encoder, offer)]
    with blamed_on(str(offer)):
        return {
            **asdict(offer.spec),
            "distribution": offer.provider,
            "trained": trained,
            "settings": [asdict(setting) for setting in settings.described(kind.Settings)],
            "presets": {name: settings.changed(kind.Settings, preset) for name, preset in kind.presets.items()},
        }


def _made_by(record: Any, offer: Offer[EncoderSpec]) -> bool:
    return (record.name, record.provider.split()[0]) == (offer.spec.name, offer.provider.split()[0])


def _print_encoder(answer: dict[str, Any]) -> None:
    name = answer["name"]
    say(f"{name}: {answer['summary']}\n")
    if answer["explanation"]:
        say(click.wrap_text(answer["explanation"], 100) + "\n")
    trained = ", ".join(answer["trained"]) or f"not yet: simrec train {name}"
    table(["", ""], [["trained", trained], ["compared by", answer["metric"]], *_origin(answer)])
    table(["setting", "default", "what it is"], [[s["name"], s["default"], s["doc"]] for s in answer["settings"]])
    changes = [
        [preset, " ".join(f"{key}={value}" for key, value in changed.items()) or "the defaults"]
        for preset, changed in answer["presets"].items()
    ]
    table(["preset", "what it changes"], changes)


def _origin(answer: dict[str, Any]) -> list[list[str]]:
    return [["distribution", answer["distribution"]], ["factory", answer["factory"]], ["contract", str(answer["api"])]]


@plugins.command()
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(["autoencoder", "numpy"]), default="autoencoder", show_default=True,
    help="A torch autoencoder, or an encoder without torch.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Where to write it.  [default: ./NAME]",
)  # fmt: skip
@click.pass_obj
def new(session: Session, name: str, kind: str, output: Path | None) -> None:
    """Write a plugin with an encoder NAME.

    It installs, passes its tests and trains as it is written; then make it your own. NAME is the name of both the
    distribution and the encoder. All files are written, or none.
    """
    from simrec import scaffold

    folder = output or Path(name)
    for path in scaffold.write(name, kind, folder):
        say(str(folder / path))
    place, simrec = shlex.quote(str(folder)), session.simrec
    session.notice(
        f"A plugin with the encoder {name!r}. Next:\n"
        f"  pip install -e {shlex.quote(f'{folder}[test]')}\n"
        f"  pytest {place}\n"
        f"  {simrec} plugins check {name}\n"
        f"  {simrec} train {name} --data fashion-mnist:small\n"
        f"  {simrec} index build {name}\n"
        f"  {simrec} similar id:test/00042 --index {name}\n"
        f"  {simrec} evaluate {name}"
    )


plugins.add_command(check)

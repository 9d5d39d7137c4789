"""Models: list, show, compare, switch, export and import bundles."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.errors import BundleError
from monitor.cli.settings import settings_of

bundles = typer.Typer(no_args_is_help=True)

_VERSION = "A version from `bundles list`, or a unique prefix; compact is built in."
_WHY = "A one-line reason, shown by `bundles show` and stored unencrypted."
_LONGEST_WHY = 200

Version = Annotated[str, typer.Argument(metavar="VERSION", help=_VERSION)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@bundles.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List all models, oldest first: creation time, origin, test result, and which one is in use."""
    from monitor.bundles.formatting import BundleFormatter
    from monitor.bundles.library import BundleLibrary

    config = settings_of(context)
    library = BundleLibrary.of(config)
    telling = BundleFormatter(library, library.registry.active(), config.timeline.zone_info())
    print(json.dumps(telling.list_json(), indent=1) if as_json else "\n".join(telling.lines()))


@bundles.command()
def show(context: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """Show the details of a model: origin, how much of your speech it learned from, scores, and when it was used."""
    from monitor.bundles.formatting import BundleFormatter
    from monitor.bundles.library import BundleLibrary

    config = settings_of(context)
    library = BundleLibrary.of(config)
    telling, kept = BundleFormatter(library, library.registry.active(), config.timeline.zone_info()), library.find(version)
    print(json.dumps(telling.show_json(kept), indent=1) if as_json else "\n".join(telling.show_lines(kept)))


@bundles.command()
def use(context: typer.Context, version: Version, why: Annotated[str, typer.Option(help=_WHY)] = "selected manually") -> None:
    """Switch to another model. A running monitor switches at once and misses nothing."""
    from monitor.bundles.library import activate_bundle

    print(f"{activate_bundle(settings_of(context), version, _one_line(why))} is in use")


@bundles.command()
def rollback(context: typer.Context, why: Annotated[str, typer.Option(help=_WHY)] = "rolled back manually") -> None:
    """Switch back to the previously used model. Repeat to go further back."""
    from monitor.bundles.library import BundleLibrary, activate_bundle

    config = settings_of(context)
    before = BundleLibrary.of(config).registry.previous()
    if before is None:
        raise BundleError("no model was in use before this one; see `emosllm-monitor bundles list`")
    print(f"{activate_bundle(config, before, _one_line(why), back=True)} is in use again")


@bundles.command()
def diff(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="A", help=_VERSION)],
    other: Annotated[str, typer.Argument(metavar="B", help="The version to compare it with.")],
    as_json: AsJson = False,
) -> None:
    """Compare two models: scores, calibration, settings, and how much the weights changed."""
    from monitor.bundles.compare import compare_bundles, comparison_lines
    from monitor.bundles.library import BundleLibrary

    library = BundleLibrary.of(settings_of(context))
    found = compare_bundles(library.find(version), library.find(other))
    print(json.dumps(found, indent=1) if as_json else "\n".join(comparison_lines(found)))


@bundles.command("export")
def export(
    context: typer.Context,
    version: Version,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, for example mine.tar.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a model to an unencrypted tar file. A model trained here has learned from your voice."""
    from monitor.bundles.archive import export_bundle
    from monitor.bundles.library import BundleLibrary, learned_locally

    kept = BundleLibrary.of(settings_of(context)).find(version)
    export_bundle(kept, file, force)
    print(f"wrote {file} (readable only by you)", file=sys.stderr)
    if learned_locally(kept.folder):
        print(
            "this model learned from your voice: the file may reveal something about you, and erasing data from the timeline does not"
            " change it. Give it only to people you would let listen to you",
            file=sys.stderr,
        )


@bundles.command("import")
def import_(
    context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `bundles export`.")]
) -> None:
    """Import a model: all of it or nothing. It is used only after `bundles use`."""
    from monitor.bundles.archive import import_bundle
    from monitor.bundles.library import BundleLibrary

    version = import_bundle(BundleLibrary.of(settings_of(context)), file)
    print(f"imported {version}; use it with: emosllm-monitor bundles use {version}")


def _one_line(why: str) -> str:
    if not why.isprintable() or len(why) > _LONGEST_WHY:
        raise BundleError(f"--why must be one line of at most {_LONGEST_WHY} characters")
    return why.strip()

"""Models: list, show, compare, switch, export and import bundles."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.errors import BundleError
from monitor.cli.settings import settings_of

bundles = typer.Typer(no_args_is_help=True)

_VERSION = "A version as `bundles list` shows it, or how one begins; compact is the built-in one."
_WHY = "One line that `bundles show` tells later; it is kept in a file that is not encrypted."
_LONGEST_WHY = 200

Version = Annotated[str, typer.Argument(metavar="VERSION", help=_VERSION)]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@bundles.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """Every model that is kept, oldest first: when it was made, from what, how it was found better, and which is in use."""
    from monitor.analysis.timeline_query import active_bundle_name
    from monitor.bundles.formatting import BundleFormatter
    from monitor.bundles.library import BundleLibrary

    config = settings_of(context)
    telling = BundleFormatter(BundleLibrary.of(config), active_bundle_name(config), config.timeline.zone_info())
    print(json.dumps(telling.list_json(), indent=1) if as_json else "\n".join(telling.lines()))


@bundles.command()
def show(context: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """All that is known of a model: what it was made from, from how much of your speech, by which figures, and when it was used."""
    from monitor.analysis.timeline_query import active_bundle_name
    from monitor.bundles.formatting import BundleFormatter
    from monitor.bundles.library import BundleLibrary

    config = settings_of(context)
    library = BundleLibrary.of(config)
    telling, kept = BundleFormatter(library, active_bundle_name(config), config.timeline.zone_info()), library.find(version)
    print(json.dumps(telling.show_json(kept), indent=1) if as_json else "\n".join(telling.show_lines(kept)))


@bundles.command()
def use(context: typer.Context, version: Version, why: Annotated[str, typer.Option(help=_WHY)] = "chosen by hand") -> None:
    """Use another model from now on. A running monitor changes at once, and misses nothing."""
    from monitor.bundles.library import activate_bundle

    print(f"{activate_bundle(settings_of(context), version, _one_line(why))} is in use")


@bundles.command()
def rollback(context: typer.Context, why: Annotated[str, typer.Option(help=_WHY)] = "gone back by hand") -> None:
    """Go back to the model that was in use before, as `use` goes on to another; again, to the one before that."""
    from monitor.bundles.library import BundleLibrary, activate_bundle

    config = settings_of(context)
    before = BundleLibrary.of(config).in_use.previous()
    if before is None:
        raise BundleError("nothing was in use before this one; `emosllm-monitor bundles list` shows what there is")
    print(f"{activate_bundle(config, before, _one_line(why), back=True)} is in use again")


@bundles.command()
def diff(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="A", help=_VERSION)],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """What differs between two models: figures, calibration, settings, and how far the weights moved."""
    from monitor.bundles.compare import compare_bundles, comparison_lines
    from monitor.bundles.library import BundleLibrary

    library = BundleLibrary.of(settings_of(context))
    found = compare_bundles(library.find(version), library.find(other))
    print(json.dumps(found, indent=1) if as_json else "\n".join(comparison_lines(found)))


@bundles.command("export")
def export(
    context: typer.Context,
    version: Version,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, such as mine.tar.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a model to one tar file. It is not encrypted, and one that was trained here learned from your voice."""
    from monitor.bundles.archive import export_bundle
    from monitor.bundles.library import BundleLibrary, learned_locally

    kept = BundleLibrary.of(settings_of(context)).find(version)
    export_bundle(kept, file, force)
    print(f"written to {file}, which only you can read", file=sys.stderr)
    if learned_locally(kept.folder):
        print(
            "it learned from your voice: who has this file may tell something about you from it, and what you have the monitor forget"
            " stays in it. Give it to nobody you would not let listen",
            file=sys.stderr,
        )


@bundles.command("import")
def import_(context: typer.Context, file: Annotated[Path, typer.Argument(metavar="FILE", help="What `bundles export` wrote.")]) -> None:
    """Bring a model in, all of it or nothing; it is used only once you say so."""
    from monitor.bundles.archive import import_bundle
    from monitor.bundles.library import BundleLibrary

    version = import_bundle(BundleLibrary.of(settings_of(context)), file)
    print(f"{version} is there; use it with: emosllm-monitor bundles use {version}")


def _one_line(why: str) -> str:
    if not why.isprintable() or len(why) > _LONGEST_WHY:
        raise BundleError(f"--why takes one line of at most {_LONGEST_WHY} characters")
    return why.strip()

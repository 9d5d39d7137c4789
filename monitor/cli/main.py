"""The `emosllm-monitor` program: registers all commands and turns errors into one message.

Nothing heavy is imported until a command needs it, so --help, status and report answer at once.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from model.errors import EmosllmError
from model.extras import missing_extra
from monitor.cli import bundles, clinic, daily, data, feedback, personalization, research, server, system

GROUPS = {
    "Daily use": ("start", "status", "pause", "resume", "stop", "dashboard", "report", "checkin", "timeline", "label"),
    "Data": ("backup", "restore", "export", "import", "forget", "key"),
    "Model": ("bundles", "voice", "retrain"),
    "System": ("devices", "doctor", "service", "schedule"),
    "Clinic and server": ("clinic", "serve"),
    "Research": ("corpus", "train", "evaluate", "compare"),
}
"""The commands by what they are for, as `--help` lists them; typer's own panels need Rich's markup."""


class _GroupedCommands(TyperGroup):
    """Lists commands under the titles of GROUPS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command once; one without a group is a KeyError of the tests."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit)) for name in names])


app = typer.Typer(
    name="emosllm-monitor",
    cls=_GroupedCommands,
    help="Estimates the emotion of one person's speech from their microphone, and keeps a private timeline with daily reports."
    " These are estimates by a machine, not a diagnosis; nobody is watching.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

for _command in (
    daily.start,
    daily.status,
    daily.pause,
    daily.resume,
    daily.stop,
    daily.report,
    daily.dashboard,
    feedback.checkin,
    feedback.timeline,
    feedback.label,
    personalization.retrain,
    system.devices,
    system.doctor,
    data.backup,
    data.restore,
    data.export,
    data.forget,
):
    app.command()(_command)
app.command("import")(data.import_)
app.add_typer(data.key, name="key", help="Manage the key that encrypts the timeline.")
app.add_typer(bundles.bundles, name="bundles", help="List, compare and switch models.")
app.add_typer(clinic.clinic, name="clinic", help="Administer a clinic's PostgreSQL: setup, logins, access, audit log.")
app.add_typer(system.schedule, name="schedule", help="Manage scheduled jobs.")
app.add_typer(server.serve, name="serve")
app.add_typer(personalization.voice, name="voice")
app.add_typer(system.service, name="service", help="Run the monitor as a systemd user service.")

# What is typed behind these is for the training process.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
for _command in (research.corpus, research.train, research.evaluate, research.compare):
    app.command(context_settings=_PASSED_ON)(_command)


def main() -> None:
    """Run the command line; an error a person can act on is one message on stderr and exit status 1."""
    try:
        try:
            app()
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error
    except EmosllmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"emosllm-monitor {version('emosllm-monitor')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file (default: ~/.config/emosllm-monitor/config.toml).")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    context.obj = config


if __name__ == "__main__":
    main()

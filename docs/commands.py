"""Writes docs/commands.md from the program itself, so that it cannot fall behind. A test holds the two equal.

python -m docs.commands [FILE]      by default docs/commands.md
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from monitor.cli.main import GROUPS, app
from train.__main__ import _parser as research_parser

_PAGE = Path(__file__).with_name("commands.md")
_PROGRAM = "emosllm-monitor"
_HEAD = f"""# Commands

<!-- Written by `python -m docs.commands`. Change the help of a command in the code, then run it again. -->

`{_PROGRAM}` stands for `.venv/bin/{_PROGRAM}`. `--config FILE` before a command reads other settings than
`~/.config/{_PROGRAM}/config.toml`. Every command explains itself with `--help`.

```sh
{_PROGRAM} start --source talk.wav --at 2026-01-05T09:00   # a recording; --speed max plays it as fast as it goes
{_PROGRAM} start --source -                                # raw 16 kHz mono int16 on standard input
{_PROGRAM} service install                                 # start with your login, through systemd
{_PROGRAM} report --day yesterday                          # also --week, --month, --from and --to; --plain for screen readers
{_PROGRAM} report --month --out month.pdf                  # also html, csv, json and fhir
{_PROGRAM} label 17 sad                                    # what segment 17 of `timeline` really was
{_PROGRAM} retrain --dry-run                               # what learning from your corrections would bring
{_PROGRAM} bundles rollback                                # the model before this one
{_PROGRAM} export --format csv --out FOLDER                # everything but sound; `import` brings it back
{_PROGRAM} forget --day yesterday                          # from every file, with a receipt
{_PROGRAM} key export FILE                                 # a copy of the key, without which your data cannot be recovered
{_PROGRAM} doctor                                          # does everything work, and does nothing leave this machine?
```
"""


def page() -> str:
    """The whole page. Raises KeyError for a command without a group, or a group with a command that is gone."""
    commands: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    lines = [_HEAD]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            command = commands.pop(name)
            lines += _research(name) if title == "Research" else _section([name], command)
    if commands:
        raise KeyError(f"GROUPS in monitor/cli/main.py has no group for {', '.join(commands)}")
    return "\n".join(lines).rstrip() + "\n"


def _section(path: list[str], command: Any) -> Iterator[str]:
    """A command, and those below it. command: typer's own kind of a click command."""
    yield from (f"{'#' * (len(path) + 2)} {' '.join(path)}", "", _text(command.help or ""), "")
    below = dict(getattr(command, "commands", {}))
    if not below or command.invoke_without_command:
        context = typer.Context(command, info_name=path[-1])
        words = [piece.strip("{}") for piece in command.collect_usage_pieces(context) if not piece.startswith("COMMAND")]
        records = [one.get_help_record(context) for one in command.params]
        if not any(records):
            words.remove("[OPTIONS]")
        yield from ("```sh", " ".join([_PROGRAM, *path, *words]), "```", "")
        yield from _table([record for record in records if record])
    for name, other in below.items():
        yield from _section([*path, name], other)


def _research(name: str) -> Iterator[str]:
    """A command that the training process answers."""
    parsers = _below(research_parser())
    told = {action.dest: action.help for action in _choices(research_parser())._choices_actions}
    path, parser = [name], parsers[name]
    while below := _below(parser):  # `corpus prepare`
        (word, parser) = next(iter(below.items()))
        path.append(word)
    yield from (f"### {' '.join(path)}", "", f"{_sentence(told[name])}", "")
    actions = [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]
    arguments = [one for one in actions if not one.option_strings]
    yield from ("```sh", " ".join([_PROGRAM, *path, "[OPTIONS]", *(_named(one) for one in arguments)]), "```", "")
    rows = [(_named(one), f"{_sentence(one.help or '')}{_one_of(one)}") for one in arguments]
    yield from _table(rows + [(_option(one), _sentence(one.help or "")) for one in actions if one.option_strings])


def _choices(parser: argparse.ArgumentParser) -> Any:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    has = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
    return dict(_choices(parser).choices) if has else {}


def _named(argument: argparse.Action) -> str:
    name = str(argument.metavar or argument.dest).upper()
    return {"+": f"{name}...", "?": f"[{name}]"}.get(str(argument.nargs), name)


def _one_of(argument: argparse.Action) -> str:
    return f" One of: {', '.join(str(one) for one in argument.choices)}." if argument.choices else ""


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return names
    choices = "|".join(str(one) for one in action.choices) if action.choices else ""
    return f"{names} {f'<{choices}>' if choices else action.metavar or action.dest.upper()}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _table(rows: list[tuple[str, str | None]]) -> Iterator[str]:
    if rows:
        yield from ("| argument | meaning |", "|---|---|")
        yield from (f"| `{name.replace('|', chr(92) + '|')}` | {_text(text or '').replace('|', chr(92) + '|')} |" for name, text in rows)
        yield ""


def _text(text: str) -> str:
    """Help as Markdown: one paragraph a paragraph, and nothing that Markdown would take for a tag."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")).replace("<", "&lt;")


def main(target: Path = _PAGE) -> None:
    """Write the page."""
    target.write_text(page(), encoding="utf-8")
    print(f"{target} is written")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))

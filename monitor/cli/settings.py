"""The settings that a command works with."""

import typer

from monitor.config import Config, load_config


def settings_of(context: typer.Context) -> Config:
    """Those of --config, or the person's own. Raises ConfigError."""
    return load_config(context.obj)

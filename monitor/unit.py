"""The unit that makes the monitor a service of one person's systemd: what it says, and how systemd wants it quoted.

Asks systemd nothing and writes nothing.
"""

import os
from pathlib import Path

from model.errors import ServiceError
from monitor.config import load_config
from monitor.large_pages import LARGE_PAGES

NAME = "emosllm-monitor.service"

_STOP_SPARE_S = 30
# Without these the service would keep another timeline, or read other settings, than the commands in the person's terminal.
_PLACES = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")
# The first systemd that can wait longer after each failed start.
_GROWING_PAUSES = 254

# Not here, because it would break what the service lives on: MemoryDenyWriteExecute (PyTorch makes its kernels at run time), PrivateTmp,
# ProtectSystem and the like (they need user namespaces, which many systems forbid, and hide the sockets of the sound server and the
# keyring), IPAddressDeny (a user's systemd may not load it, and ignores it). No MemoryMax: what is enough depends on the bundle, and the
# kernel would kill the listening for what the engine took.
_UNIT = """\
# Written by `emosllm-monitor service install`, which replaces it; `emosllm-monitor service uninstall` removes it.
[Unit]
Description=emosllm-monitor: estimates emotions from the microphone, for its owner only
After=pipewire.service pipewire-pulse.service pulseaudio.service sound.target
# A microphone may be plugged in tomorrow: never give up.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
{environment}\
TimeoutStartSec=2min
WatchdogSec=1min
Restart=on-failure
{pause}
# A command line that is refused will be refused again.
RestartPreventExitStatus=2
# The end is the daemon's to order: its engine still judges what waits.
KillMode=mixed
TimeoutStopSec={stop_s}
# If memory runs out and the engine is killed, listening goes on, and the daemon starts the engine again.
OOMPolicy=continue
# A core dump would hold sound.
LimitCORE=0
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def unit_path() -> Path:
    """Where the unit belongs: $XDG_CONFIG_HOME/systemd/user, by default ~/.config/systemd/user."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user" / NAME


def unit_text(program: Path, config_file: Path | None, version: int) -> str:
    """The unit for a program and a settings file (None: the person's own). version: of systemd, which refuses what it does not know.

    Raises ConfigError when the settings cannot be used, ServiceError for a path that no unit can hold.
    """
    stop_s = load_config(config_file).engine.stop_timeout_s + _STOP_SPARE_S
    arguments = ["--config", str(config_file.expanduser().absolute())] if config_file else []
    command = " ".join([_quoted_program(program), *(_quoted(word).replace("$", "$$") for word in [*arguments, "start", "--unattended"])])
    told = [f"{name}={Path(value).absolute()}" for name in _PLACES if (value := os.environ.get(name))]
    told += [f"{name}={value}" for name, value in LARGE_PAGES.items()]
    environment = "".join(f"Environment={_quoted(one)}\n" for one in told)
    pause = "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=5min" if version >= _GROWING_PAUSES else "RestartSec=30"
    return _UNIT.format(command=command, environment=environment, pause=pause, stop_s=stop_s)


def starts(unit: Path, program: Path) -> bool:
    """Whether a unit that was written starts this program."""
    try:
        return f"ExecStart={_quoted_program(program)} " in unit.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _quoted(word: str) -> str:
    """A word as systemd reads it back: in quotes, with its escapes and its per cent signs doubled."""
    if "\n" in word:
        raise ServiceError(f"{word!r} holds a line break, which no unit can")
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _quoted_program(path: Path) -> str:
    """Like `_quoted`; in the program's own path systemd takes no escapes, and a dollar is a dollar."""
    if any(character in "\"'\\" or not character.isprintable() for character in str(path)):
        raise ServiceError(f"systemd starts no program whose path holds quotes or backslashes: {path}; move this installation")
    return _quoted(str(path))

"""The daemon as a service of the person's systemd: sd_notify messages, the text of the unit, and installing it through systemctl.

Knows nothing of the daemon. Functions that change something return what a person is told, line by line. Without systemd, sd_notify calls
do nothing; what they say shows in `systemctl status`, so it holds times and counts only.
"""

import difflib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import ServiceError
from monitor.config import LARGE_PAGES_ENVIRONMENT, load_config
from monitor.fileio import write_private_atomic
from monitor.paths import systemd_units_dir

_WATCHDOG_SIGNS = 3


class SystemdNotifier:
    """This process's line to systemd. No call blocks or raises: listening matters more than being watched.

    environment: NOTIFY_SOCKET is a path, or an abstract name after an @. clock: seconds that never go back.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        variables = os.environ if environment is None else environment
        address = variables.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        watched = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        timeout_us = variables.get("WATCHDOG_USEC", "0") if watched else "0"
        self.watchdog_s = int(timeout_us) / 1e6 if timeout_us.isdecimal() else 0.0
        """After this long without a sign of life systemd restarts the daemon; 0: it does not watch."""
        self._due_at = clock()

    def ready(self) -> None:
        """Sound is coming in: `systemctl start` returns."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """A sign of life; may be given as often as one likes, as only those are sent that are due."""
        if self.watchdog_s and self._clock() >= self._due_at:
            self._due_at = self._clock() + self.watchdog_s / _WATCHDOG_SIGNS
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun; it may take as long as the unit allows."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as line:
                line.sendto(message.encode(), self._address)
        except OSError:
            return


UNIT_NAME = "emosllm-monitor.service"

_STOP_MARGIN_S = 30
# Without these the service would keep another timeline, or read other settings, than the commands in the person's terminal.
_PASSED_VARIABLES = ("XDG_STATE_HOME", "XDG_CONFIG_HOME")
# The first systemd that can wait longer after each failed start.
_RESTART_STEPS_VERSION = 254

# Not here, because it would break what the service lives on: MemoryDenyWriteExecute (PyTorch makes its kernels at run time), PrivateTmp,
# ProtectSystem and the like (they need user namespaces, which many systems forbid, and hide the sockets of the sound server and the
# keyring), IPAddressDeny (a user's systemd may not load it, and ignores it). No MemoryMax: what is enough depends on the bundle, and the
# kernel would kill the listening for what the engine took.
_UNIT_TEMPLATE = """\
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


def unit_text(program: Path, config_file: Path | None, version: int) -> str:
    """The unit for a program and a settings file (None: the person's own). version: of systemd, which refuses what it does not know.

    Raises ConfigError when the settings cannot be used, ServiceError for a path that no unit can hold.
    """
    stop_s = load_config(config_file).engine.stop_timeout_s + _STOP_MARGIN_S
    arguments = ["--config", str(config_file.expanduser().absolute())] if config_file else []
    command = " ".join([_quote_program(program), *(_quote(word).replace("$", "$$") for word in [*arguments, "start", "--unattended"])])
    told = [f"{name}={Path(value).absolute()}" for name in _PASSED_VARIABLES if (value := os.environ.get(name))]
    told += [f"{name}={value}" for name, value in LARGE_PAGES_ENVIRONMENT.items()]
    environment = "".join(f"Environment={_quote(one)}\n" for one in told)
    pause = "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=5min" if version >= _RESTART_STEPS_VERSION else "RestartSec=30"
    return _UNIT_TEMPLATE.format(command=command, environment=environment, pause=pause, stop_s=stop_s)


def unit_starts(unit: Path, program: Path) -> bool:
    """Whether a unit that was written starts this program."""
    try:
        return f"ExecStart={_quote_program(program)} " in unit.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _quote(word: str) -> str:
    """A word as systemd reads it back: in quotes, with its escapes and its per cent signs doubled."""
    if "\n" in word:
        raise ServiceError(f"{word!r} holds a line break, which no unit can")
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _quote_program(path: Path) -> str:
    """Like `_quote`; in the program's own path systemd takes no escapes, and a dollar is a dollar."""
    if any(character in "\"'\\" or not character.isprintable() for character in str(path)):
        raise ServiceError(f"systemd starts no program whose path holds quotes or backslashes: {path}; move this installation")
    return _quote(str(path))


_PROGRAM = "emosllm-monitor"
_SYSTEMCTL_TIMEOUT_S = 180.0
_JOURNAL = f"journalctl --user --unit {UNIT_NAME}"
_NO_MANAGER_MESSAGES = ("failed to connect to bus", "failed to connect to user scope bus", "not been booted with systemd", "host is down")
_NO_MANAGER_REASON = "that is so in containers, and in terminals opened by su or sudo"
_UNIT_PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "SubState", "MainPID", "StatusText", "ActiveEnterTimestamp")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What systemd and the unit's file say. `answered` is False where there is no systemd of this person's to be asked."""

    path: Path
    installed: bool
    answered: bool
    facts: Mapping[str, str]

    @property
    def active(self) -> bool:
        """It runs, and has said that it is ready."""
        return self.facts.get("ActiveState") == "active"

    @property
    def enabled(self) -> bool:
        """It starts with the login."""
        return self.facts.get("UnitFileState") in ("enabled", "enabled-runtime")

    def lines(self) -> list[str]:
        """In words, for people."""
        lines = [f"installed  {'yes, ' + str(self.path) if self.installed else 'no; emosllm-monitor service install does it'}"]
        if not self.answered:
            return [*lines, f"active     no: no systemd of yours answers; {_NO_MANAGER_REASON}"]
        if self.installed or self.active:
            lines.append(f"enabled    {'yes, it starts with your login' if self.enabled else 'no, it does not start by itself'}")
        lines.append(f"active     {self._activity()}")
        return lines

    def _activity(self) -> str:
        words = self.facts.get("ActiveState", "inactive")
        if self.active:
            told = self.facts.get("StatusText", "")
            since = self.facts.get("ActiveEnterTimestamp", "")
            return f"yes, process {self.facts.get('MainPID')}{f', since {since}' if since else ''}{f': {told}' if told else ''}"
        if words == "activating":
            again = self.facts.get("SubState") == "auto-restart"
            return f"no, it failed and will be tried again; why: {_JOURNAL}" if again else "no, it is starting"
        return f"no, it failed; why: {_JOURNAL}" if words == "failed" else f"no ({words})"


def install_service(config_file: Path | None, start: bool) -> list[str]:
    """Write the unit, enable it and, if wanted, start it; what was done, in words.

    Raises ConfigError for settings that cannot be used, and ServiceError where there is no systemd, it refuses, or the service does
    not start; the unit then stays, and the message says so.
    """
    text = unit_text(program_path(), config_file, systemd_version())
    path = systemd_units_dir() / UNIT_NAME
    done, changed = _write_unit(path, text)
    loaded = _systemctl("daemon-reload")
    if loaded.returncode and not _has_no_manager(loaded):
        raise ServiceError(f"{path} is written, but systemd does not read it: {_systemctl_error(loaded)}")
    # Without a running manager this still works: it makes a link.
    enabled = _systemctl("enable", UNIT_NAME)
    if enabled.returncode:
        raise ServiceError(f"{path} is written, but systemd does not enable it: {_systemctl_error(enabled)}")
    done.append("enabled: it starts with your login (before any login: loginctl enable-linger)")
    if not start:
        return done
    if loaded.returncode:
        raise ServiceError(
            f"{path} is written and enabled, but not started: no systemd of yours answers ({_systemctl_error(loaded)});"
            f" {_NO_MANAGER_REASON}. It starts with your next login"
        )
    started = _systemctl("restart" if changed else "start", UNIT_NAME)
    if started.returncode:
        raise ServiceError(
            f"{path} is written and enabled, but the service did not start; `emosllm-monitor doctor` and `{_JOURNAL}` tell why, and "
            f"systemd tries again. systemctl says: {_systemctl_error(started)}"
        )
    return [*done, "started: it listens now"]


def uninstall_service() -> list[str]:
    """Stop the service and remove its unit; what was done, in words. The timeline and the settings stay.

    Raises ServiceError when systemd does not stop it: then nothing is removed.
    """
    path = systemd_units_dir() / UNIT_NAME
    wanted = path.parent / "default.target.wants" / UNIT_NAME
    found = path.exists() or wanted.is_symlink()
    if not found:
        return ["the service is not installed; nothing to do"]
    done = []
    if shutil.which("systemctl"):
        stopped = _systemctl("disable", "--now", UNIT_NAME)
        if stopped.returncode and not _has_no_manager(stopped):
            raise ServiceError(f"systemd does not stop the service, so {path} stays: {_systemctl_error(stopped)}")
        if not stopped.returncode:
            done.append("stopped and disabled")
    for file in (wanted, path):
        file.unlink(missing_ok=True)
    if shutil.which("systemctl"):
        _systemctl("daemon-reload")
    return [*done, f"removed {path}", "your timeline and your settings stay as they are"]


def service_state() -> ServiceState:
    """What is there. Never raises for a machine without systemd."""
    path = systemd_units_dir() / UNIT_NAME
    if shutil.which("systemctl") is None:
        return ServiceState(path, path.exists(), False, {})
    shown = _systemctl("show", UNIT_NAME, f"--property={','.join(_UNIT_PROPERTIES)}")
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    return ServiceState(path, path.exists(), shown.returncode == 0, facts)


def program_path() -> Path:
    """The installed command that this is: as it was called, else beside the interpreter. Raises ServiceError when there is none."""
    for path in (Path(sys.argv[0]).absolute(), Path(sys.executable).parent / _PROGRAM):
        if path.name == _PROGRAM and os.access(path, os.X_OK):
            return path
    raise ServiceError(f"there is no {_PROGRAM} beside {sys.executable} that a service could start; run `make setup`")


def systemd_version() -> int:
    """Raises ServiceError where there is no systemctl."""
    if shutil.which("systemctl") is None:
        raise ServiceError("there is no systemctl: this machine is not run by systemd; start `emosllm-monitor start` by other means")
    words = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0


def _write_unit(path: Path, text: str) -> tuple[list[str], bool]:
    """Put the unit there in one step; what was done, and whether it is another than before."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == text:
            return [f"{path} is up to date"], False
        write_private_atomic(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot write the unit {path}: {error}") from error
    if before is None:
        return [f"written {path}"], True
    differences = difflib.unified_diff(before.splitlines(), text.splitlines(), n=0, lineterm="")
    lines = [f"  {line}" for line in differences if not line.startswith(("---", "+++", "@@"))]
    return [f"replaced {path}, which was different:", *lines], True


def _systemctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["systemctl", "--user", "--no-pager", *arguments],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"`systemctl --user {' '.join(arguments)}` did not answer within {_SYSTEMCTL_TIMEOUT_S:.0f} s") from error


def _systemctl_error(answer: "subprocess.CompletedProcess[str]") -> str:
    return " ".join(answer.stderr.split()) or f"exit status {answer.returncode}"


def _has_no_manager(answer: "subprocess.CompletedProcess[str]") -> bool:
    return any(words in answer.stderr.lower() for words in _NO_MANAGER_MESSAGES)

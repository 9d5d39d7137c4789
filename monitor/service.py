"""The monitor as a service of one person's systemd: installs, removes and asks after it, through systemctl.

Knows nothing of the daemon. Functions return what a person is told, line by line.
"""

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import ServiceError
from monitor.unit import NAME, unit_path, unit_text

_PROGRAM = "emosllm-monitor"
_ASK_TIMEOUT_S = 180.0
_JOURNAL = f"journalctl --user --unit {NAME}"
_NO_MANAGER = ("failed to connect to bus", "failed to connect to user scope bus", "not been booted with systemd", "host is down")
_WHY_NONE = "that is so in containers, and in terminals opened by su or sudo"
_ANSWERED = ("LoadState", "UnitFileState", "ActiveState", "SubState", "MainPID", "StatusText", "ActiveEnterTimestamp")


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
            return [*lines, f"active     no: no systemd of yours answers; {_WHY_NONE}"]
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


def install(config_file: Path | None, start: bool) -> list[str]:
    """Write the unit, enable it and, if wanted, start it; what was done, in words.

    Raises ConfigError for settings that cannot be used, and ServiceError where there is no systemd, it refuses, or the service does
    not start; the unit then stays, and the message says so.
    """
    text = unit_text(program(), config_file, systemd_version())
    path = unit_path()
    done, changed = _write(path, text)
    loaded = _systemctl("daemon-reload")
    if loaded.returncode and not _has_no_manager(loaded):
        raise ServiceError(f"{path} is written, but systemd does not read it: {_said(loaded)}")
    # Without a running manager this still works: it makes a link.
    enabled = _systemctl("enable", NAME)
    if enabled.returncode:
        raise ServiceError(f"{path} is written, but systemd does not enable it: {_said(enabled)}")
    done.append("enabled: it starts with your login (before any login: loginctl enable-linger)")
    if not start:
        return done
    if loaded.returncode:
        raise ServiceError(
            f"{path} is written and enabled, but not started: no systemd of yours answers ({_said(loaded)}); {_WHY_NONE}. "
            "It starts with your next login"
        )
    started = _systemctl("restart" if changed else "start", NAME)
    if started.returncode:
        raise ServiceError(
            f"{path} is written and enabled, but the service did not start; `emosllm-monitor doctor` and `{_JOURNAL}` tell why, and "
            f"systemd tries again. systemctl says: {_said(started)}"
        )
    return [*done, "started: it listens now"]


def uninstall() -> list[str]:
    """Stop the service and remove its unit; what was done, in words. The timeline and the settings stay.

    Raises ServiceError when systemd does not stop it: then nothing is removed.
    """
    path = unit_path()
    wanted = path.parent / "default.target.wants" / NAME
    found = path.exists() or wanted.is_symlink()
    if not found:
        return ["the service is not installed; nothing to do"]
    done = []
    if shutil.which("systemctl"):
        stopped = _systemctl("disable", "--now", NAME)
        if stopped.returncode and not _has_no_manager(stopped):
            raise ServiceError(f"systemd does not stop the service, so {path} stays: {_said(stopped)}")
        if not stopped.returncode:
            done.append("stopped and disabled")
    for file in (wanted, path):
        file.unlink(missing_ok=True)
    if shutil.which("systemctl"):
        _systemctl("daemon-reload")
    return [*done, f"removed {path}", "your timeline and your settings stay as they are"]


def state() -> ServiceState:
    """What is there. Never raises for a machine without systemd."""
    path = unit_path()
    if shutil.which("systemctl") is None:
        return ServiceState(path, path.exists(), False, {})
    shown = _systemctl("show", NAME, f"--property={','.join(_ANSWERED)}")
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    return ServiceState(path, path.exists(), shown.returncode == 0, facts)


def program() -> Path:
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


def _write(path: Path, text: str) -> tuple[list[str], bool]:
    """Put the unit there in one step; what was done, and whether it is another than before."""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == text:
            return [f"{path} is up to date"], False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_name(f".{NAME}.{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
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
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"`systemctl --user {' '.join(arguments)}` did not answer within {_ASK_TIMEOUT_S:.0f} s") from error


def _said(answer: "subprocess.CompletedProcess[str]") -> str:
    return " ".join(answer.stderr.split()) or f"exit status {answer.returncode}"


def _has_no_manager(answer: "subprocess.CompletedProcess[str]") -> bool:
    return any(words in answer.stderr.lower() for words in _NO_MANAGER)

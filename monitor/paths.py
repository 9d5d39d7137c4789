"""Every file that the program keeps: its settings, its state folder, and what lies beside the database of a timeline.

Only names; what is in a file is known to whoever writes it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

_APP = "emosllm-monitor"


def state_dir() -> Path:
    """Where the monitor keeps its own files: $XDG_STATE_HOME/emosllm-monitor, by default ~/.local/state/emosllm-monitor on Linux."""
    return _xdg_dir("XDG_STATE_HOME", platformdirs.user_state_path()) / _APP


def config_path() -> Path:
    """The person's own settings: $XDG_CONFIG_HOME/emosllm-monitor/config.toml, by default in ~/.config on Linux; it need not exist."""
    return _xdg_dir("XDG_CONFIG_HOME", platformdirs.user_config_path()) / _APP / "config.toml"


def systemd_units_dir() -> Path:
    """Where a person's systemd finds units: $XDG_CONFIG_HOME/systemd/user, by default ~/.config/systemd/user."""
    return _xdg_dir("XDG_CONFIG_HOME", platformdirs.user_config_path()) / "systemd" / "user"


def _xdg_dir(variable: str, default: Path) -> Path:
    # Also a relative one, which platformdirs would pass over.
    return Path(os.environ.get(variable) or default)


def default_database() -> Path:
    """The timeline's database where [timeline] names none."""
    return state_dir() / "timeline.db"


def backups_dir() -> Path:
    """The folder of the backups of timelines."""
    return state_dir() / "backups"


def bundles_file() -> Path:
    """What remembers which bundle is in use, and what became of others."""
    return state_dir() / "bundles.json"


def bundles_dir() -> Path:
    """The folder of bundles that were trained on this machine or brought to it."""
    return state_dir() / "bundles"


def training_dir() -> Path:
    """The folder that an interrupted training leaves."""
    return state_dir() / "retrain-work"


def training_log() -> Path:
    """What the last training said."""
    return state_dir() / "retrain.log"


def daemon_log() -> Path:
    """What the daemon says about itself; older ones have a number at the end."""
    return state_dir() / "monitor.log"


def engine_log() -> Path:
    """What the inference worker says."""
    return state_dir() / "engine.log"


def start_log() -> Path:
    """What a daemon in the background says before it writes its own log."""
    return state_dir() / "start.log"


def clients_file() -> Path:
    """The clients of a vLLM server for many monitors, where no other file is named."""
    return state_dir() / "clients.json"


def adapters_dir() -> Path:
    """The adapters of such a server, where no other folder is named."""
    return state_dir() / "adapters"


@dataclass(frozen=True, slots=True)
class DatabaseFiles:
    """The database of a timeline and the files beside it.

    Links are followed here and nowhere else: by whatever name a database is reached, these are the same files.
    """

    database: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "database", Path(os.path.realpath(self.database)))

    @property
    def lock(self) -> Path:
        """Held by whoever writes the database; says who that is."""
        return self._beside(".lock")

    @property
    def socket(self) -> Path:
        """Where the daemon that writes the database takes commands."""
        return self._beside(".sock")

    @property
    def pause(self) -> Path:
        """There while listening is paused."""
        return self._beside(".paused")

    @property
    def jobs(self) -> Path:
        """Where APScheduler keeps when each job comes."""
        return self._beside(".jobs")

    @property
    def disabled_jobs(self) -> Path:
        """Which jobs are switched off."""
        return self._beside(".schedule")

    @property
    def deletion_note(self) -> Path:
        """What is being deleted; there until that is done."""
        return self._beside(".forgetting")

    def erasure_note(self, number: int) -> Path:
        """One time range that a clinic must still erase."""
        return self._beside(f"{_ERASURE_NOTE}{number}")

    def erasure_notes(self) -> list[Path]:
        """All of those, oldest first."""
        return sorted(self.database.parent.glob(f"{self.database.name}{_ERASURE_NOTE}*"))

    def aside(self, stamp: str) -> Path:
        """What was the database until a backup was put in its place."""
        return self._beside(f"{_ASIDE}{stamp}")

    def asides(self) -> list[Path]:
        """All of those, and what SQLite keeps beside them."""
        return sorted(self.database.parent.glob(f"{self.database.name}{_ASIDE}*"))

    def _beside(self, ending: str) -> Path:
        return self.database.with_name(self.database.name + ending)


_ERASURE_NOTE = ".clinic-"
_ASIDE = ".aside-"

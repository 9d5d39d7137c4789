"""The service: a unit that the real systemd accepts, and what systemctl is asked to do.

A user's systemd runs on no build machine, so that one is played by a script that records its calls.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from model.errors import ConfigError, ServiceError
from monitor.daemon import systemd
from monitor.daemon.systemd import unit_text
from tests.support.commands import COMMAND, configure, run

SYSTEMCTL = """#!/bin/sh
[ "$1" = --version ] && { echo "systemd ${VERSION:-252} (252.1)"; exit 0; }
[ "$1 $2" = "--user --no-pager" ] || exit 9
shift 2
echo "$*" >>"$CALLS"
case "$1" in
show) [ -z "$SHOWN" ] || { cat "$SHOWN"; exit 0; } ;;
esac
case " $FAILING " in *" $1 "*) echo "${SAYS:-Failed to connect to bus: No medium found}" >&2; exit 1 ;; esac
"""


class Systemctl:
    """What stands in for systemd: it agrees to everything, unless told what to refuse."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls = folder / "calls"
        self._set = monkeypatch.setenv
        script = folder / "systemctl"
        script.write_text(SYSTEMCTL)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("CALLS", str(self._calls))
        self._folder = folder

    def calls(self) -> list[str]:
        """Since the last time."""
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return calls

    def refuse(self, *commands: str, says: str = "") -> None:
        self._set("FAILING", " ".join(commands))
        self._set("SAYS", says)

    def show(self, **facts: str) -> None:
        (self._folder / "shown").write_text("".join(f"{name}={value}\n" for name, value in facts.items()))
        self._set("SHOWN", str(self._folder / "shown"))


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    return Systemctl(tmp_path, monkeypatch)


@pytest.fixture
def unit(home: Path) -> Path:
    """Where the unit of this test's person belongs."""
    return home / "config" / "systemd" / "user" / "emosllm-monitor.service"


def _program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "emosllm-monitor").symlink_to(COMMAND)
    return folder / "emosllm-monitor"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd")
@pytest.mark.parametrize("folder", ["plain", "two words", "100% $HOME %h", "größe;|&"])
@pytest.mark.parametrize("named", [True, False])
def test_systemd_accepts_the_unit_whatever_the_paths_are_called(folder: str, named: bool, tmp_path: Path, home: Path) -> None:
    settings = tmp_path / folder / 'set"tings \\ $x.toml'
    program = _program(tmp_path / folder)
    settings.touch()
    path = tmp_path / "emosllm-monitor.service"
    path.write_text(unit_text(program, settings if named else None, 252))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", str(path)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(home), "XDG_CONFIG_HOME": str(home / folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    program.unlink()
    done = subprocess.run(done.args, env={**os.environ, "XDG_RUNTIME_DIR": str(home)}, capture_output=True, text=True, check=False)
    assert f"Command {program} is not executable" in done.stderr, "systemd reads another path than was meant"


def test_words_are_quoted_so_that_systemd_reads_them_back(tmp_path: Path) -> None:
    settings = tmp_path / 'a "b" \\ $c %d.toml'
    settings.touch()
    (line,) = [line for line in unit_text(Path("/o p/x"), settings, 252).splitlines() if line.startswith("ExecStart=")]
    assert line == f'ExecStart="/o p/x" "--config" "{tmp_path}/a \\"b\\" \\\\ $$c %%d.toml" "start" "--unattended"'


@pytest.mark.parametrize("path", ["/sam's/emosllm-monitor", '/"x"/emosllm-monitor', "/a\\b/emosllm-monitor", "/a\nb/emosllm-monitor"])
def test_a_program_that_systemd_could_not_start_is_refused(path: str) -> None:
    with pytest.raises(ServiceError, match="move this installation"):
        unit_text(Path(path), None, 252)


def test_pauses_grow_where_systemd_knows_how() -> None:
    assert "RestartMaxDelaySec" in unit_text(Path("/x"), None, 254)
    assert "RestartMaxDelaySec" not in unit_text(Path("/x"), None, 252)


def test_installed_as_a_person_does_it_with_settings_and_places_of_their_own(unit: Path, home: Path, systemctl: Systemctl) -> None:
    configure(home, engine={"stop_timeout_s": 100})
    done = run("--config", str(home / "config/emosllm-monitor/config.toml"), "service", "install")
    assert done.returncode == 0, done.stderr
    assert systemctl.calls() == ["daemon-reload", "enable emosllm-monitor.service", "restart emosllm-monitor.service"]
    text = unit.read_text()
    assert f'ExecStart="{COMMAND}" "--config" "{home}/config/emosllm-monitor/config.toml" "start" "--unattended"' in text
    assert f'Environment="XDG_STATE_HOME={home}/state"' in text
    assert 'Environment="PYTHONMALLOC=malloc"' in text
    assert "TimeoutStopSec=130" in text, "systemd must not kill what the daemon still may judge"
    assert f"written {unit}" in done.stdout
    assert "enable-linger" in done.stdout
    assert [file.name for file in unit.parent.iterdir()] == [unit.name], "something was left behind"


def test_the_same_unit_disturbs_nothing_and_another_is_shown_and_takes_its_place(unit: Path, systemctl: Systemctl) -> None:
    systemd.install_service(None, start=True)
    systemctl.calls()
    assert f"{unit} is up to date" in systemd.install_service(None, start=True)
    assert "start emosllm-monitor.service" in systemctl.calls(), "a restart would interrupt what is heard"
    unit.write_text(unit.read_text().replace('"start"', '"listen"'))
    done = systemd.install_service(None, start=True)
    assert f"replaced {unit}, which was different:" in done
    assert any(line.startswith("  -ExecStart=") and '"listen"' in line for line in done)
    assert any(line.startswith("  +ExecStart=") for line in done)
    assert "restart emosllm-monitor.service" in systemctl.calls()


def test_without_starting_it_waits_for_the_next_login(unit: Path, systemctl: Systemctl) -> None:
    done = run("service", "install", "--no-start")
    assert done.returncode == 0
    assert unit.exists()
    assert systemctl.calls() == ["daemon-reload", "enable emosllm-monitor.service"]


def test_where_no_systemd_of_the_person_runs_it_is_ready_for_the_next_login(unit: Path, systemctl: Systemctl) -> None:
    systemctl.refuse("daemon-reload", "start", "restart", "show")
    done = run("service", "install")
    assert done.returncode == 1
    assert "Failed to connect to bus" in done.stderr
    assert "next login" in done.stderr
    assert unit.exists()
    assert run("service", "install", "--no-start").returncode == 0
    asked = run("service", "status")
    assert asked.returncode == 3
    assert "su or sudo" in asked.stdout
    systemctl.refuse("disable", "daemon-reload")
    assert run("service", "uninstall").returncode == 0
    assert not unit.exists()


@pytest.mark.parametrize("refused", ["daemon-reload", "enable", "restart"])
def test_what_systemd_refuses_is_passed_on_with_what_has_been_done(refused: str, unit: Path, systemctl: Systemctl) -> None:
    systemctl.refuse(refused, says="Unit is masked.")
    with pytest.raises(ServiceError, match=r"is written.*Unit is masked\."):
        systemd.install_service(None, start=True)
    assert unit.exists()


def test_settings_that_cannot_be_used_are_said_before_anything_is_written(unit: Path, home: Path, systemctl: Systemctl) -> None:
    configure(home, segmenter={"frame_ms": 25})
    with pytest.raises(ConfigError, match="frame_ms"):
        systemd.install_service(None, start=True)
    assert not unit.exists()
    assert systemctl.calls() == []


def test_a_machine_without_systemd_is_told_so(unit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="no systemctl"):
        systemd.install_service(None, start=True)
    assert not unit.exists()
    assert not systemd.service_state().active
    assert systemd.uninstall_service() == ["the service is not installed; nothing to do"]


def test_uninstalling_stops_first_and_removes_what_was_installed_only(unit: Path, home: Path, systemctl: Systemctl) -> None:
    configure(home, engine={"kind": "transformers"})
    systemd.install_service(None, start=False)
    other = unit.with_name("other.service")
    other.touch()
    wanted = unit.parent / "default.target.wants" / unit.name
    wanted.parent.mkdir()
    wanted.symlink_to(unit)
    systemctl.calls()
    assert "stopped and disabled" in systemd.uninstall_service()
    assert systemctl.calls() == ["disable --now emosllm-monitor.service", "daemon-reload"]
    assert not unit.exists()
    assert not wanted.is_symlink()
    assert other.exists()
    assert (home / "config/emosllm-monitor/config.toml").exists()
    assert systemd.uninstall_service() == ["the service is not installed; nothing to do"]


def test_a_service_that_does_not_stop_stays_installed(unit: Path, systemctl: Systemctl) -> None:
    systemd.install_service(None, start=False)
    systemctl.refuse("disable", says="Job timed out.")
    with pytest.raises(ServiceError, match=r"stays: Job timed out\."):
        systemd.uninstall_service()
    assert unit.exists()


def test_a_service_that_runs_is_described_and_answers_with_status_0(systemctl: Systemctl) -> None:
    systemd.install_service(None, start=False)
    systemctl.show(ActiveState="active", UnitFileState="enabled", MainPID="77", StatusText="listening", ActiveEnterTimestamp="Mon 09:00")
    done = run("service", "status")
    assert done.returncode == 0
    assert "yes, it starts with your login" in done.stdout
    assert "yes, process 77, since Mon 09:00: listening" in done.stdout


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, "no (inactive)"),
        ({"ActiveState": "failed", "UnitFileState": "enabled"}, "no, it failed; why: journalctl --user --unit"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "it failed and will be tried again"),
        ({"ActiveState": "activating", "SubState": "start"}, "no, it is starting"),
    ],
)
def test_a_service_that_does_not_run_answers_with_status_3(facts: dict[str, str], words: str, systemctl: Systemctl) -> None:
    systemd.install_service(None, start=False)
    systemctl.show(**facts)
    done = run("service", "status")
    assert done.returncode == 3
    assert words in done.stdout

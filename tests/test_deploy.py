"""The files in deploy/ say what `serve` does: the same flags, the same command, and units that systemd takes."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from model.bundle import resolve
from model.manifest import find_bundle, read_manifest
from monitor.commands.serving import serve
from monitor.serving.launch import server_arguments, sharing_arguments

DEPLOY = Path(__file__).parent.parent / "deploy"
PACKAGED = find_bundle("compact")
MANIFEST = read_manifest(PACKAGED)


def _flags(arguments: list[str]) -> dict[str, list[str]]:
    """Values by flag."""
    flags: dict[str, list[str]] = {}
    for word in arguments:
        if word.startswith("--"):
            name, *value = word.split("=", 1)
            flags[name] = value
            values = flags[name]
        else:
            values.append(word)
    return flags


SERVED = _flags(server_arguments(PACKAGED, resolve(PACKAGED, MANIFEST.llm), MANIFEST.version))


def test_the_second_host_of_data_parallelism_runs_the_engine_that_serve_runs() -> None:
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"vllm serve (\S+ --headless .*)", text)
    told = _flags(shlex.split(command)[1:])
    # What concerns the HTTP server is not for a host without one.
    for_http = {"--model", "--lora-modules", "--chat-template-content-format"}
    for_http |= {"--middleware", "--uvicorn-log-level", "--disable-fastapi-docs"}
    wanted = {name: value for name, value in (SERVED | _flags(sharing_arguments(32))).items() if name not in for_http}
    assert {name: value for name, value in told.items() if not name.startswith("--data-parallel") and name != "--headless"} == wanted


def test_ray_serves_the_same_but_for_the_adapter_which_is_merged() -> None:
    (application,) = yaml.safe_load((DEPLOY / "ray_serve.yaml").read_text())["applications"]
    (config,) = application["args"]["llm_configs"]
    assert config["model_loading_config"]["model_id"] == MANIFEST.version
    told = {name: [] if value is True else [str(value)] for name, value in config["engine_kwargs"].items()}
    del told["tensor_parallel_size"]
    assert told == {name[2:].replace("-", "_"): value for name, value in SERVED.items() if "lora" not in name and name != "--model"}
    assert MANIFEST.version in (DEPLOY / "README.md").read_text()


def _options() -> set[str]:
    from typer.main import get_command

    command = get_command(serve)
    return {option for parameter in command.params for option in parameter.opts}


def test_unit_and_container_start_serve_with_options_that_it_has() -> None:
    unit = (DEPLOY / "emosllm-serve.service").read_text().replace("\\\n", " ")
    (started,) = re.findall(r"ExecStart=\S+/emosllm-monitor serve (.*)", unit)
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serve"]
    assert service["entrypoint"] == ["emosllm-monitor", "serve"]
    for arguments in (shlex.split(started), service["command"]):
        flags = _flags(arguments)
        assert flags.keys() <= _options()
        assert {"--tls-cert", "--tls-key", "--clients"} <= flags.keys()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "emosllm-serve.service"
    unit.write_text((DEPLOY / unit.name).read_text().replace("/opt/emosllm-monitor/.venv/bin/emosllm-monitor", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

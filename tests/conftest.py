"""What applies to every test: two lanes, a time limit, one worker for the shared server, and a home of its own."""

import os
from pathlib import Path
from typing import Any

# Nothing here may look for weights on the network, and vLLM shall not report its use.
os.environ.update(HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
# Tests run beside each other, and many start several processes: threads that wait for each other busily would take the cores from them all.
os.environ.update(OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND="nobind")

import pytest

pytest_plugins = ["tests.support.fixtures"]

SLOW_TIMEOUT_S = 900
USES_SHARED_SERVER = ("test_engines.py", "test_adapter_loading.py", "test_shared_server.py")
"""Files whose tests ask `shared` or `embedded`: one worker runs them all, so each of the two is started once."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow too (make test-all)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless --all, -m or a test's own name asks for them."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
    named = any("::" in argument for argument in config.args)
    if slow and not (config.getoption("--all") or config.option.markexpr or named):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as --dist loadfile does; files that use the shared server count as one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "shared server" if file.endswith(USES_SHARED_SERVER) else file

    return ByFileAndServer(config, log)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state and a configuration directory that nothing else uses and no keyring, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.delenv("EMOSLLM_STORE_KEY", raising=False)
    monkeypatch.delenv("EMOSLLM_STORE_URL", raising=False)
    monkeypatch.setenv("TZ", "Europe/Paris")
    return folder

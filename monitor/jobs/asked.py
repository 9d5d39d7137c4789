"""What can be asked of a running monitor's jobs from another terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model.errors import EmosllmError
from monitor.control import Answer, Command

if TYPE_CHECKING:
    from monitor.jobs.schedule import Jobs


def commands_of_jobs(jobs: "Jobs") -> dict[str, Command]:
    """Commands by their names, for a ControlServer."""

    def listed(_arguments: Mapping[str, Any]) -> Answer:
        return {"jobs": [state.as_json() for state in jobs.states()]}

    def run(arguments: Mapping[str, Any]) -> Answer:
        jobs.run(_name(arguments))
        return {}

    def switch(arguments: Mapping[str, Any]) -> Answer:
        jobs.switch(_name(arguments), bool(arguments.get("on")))
        return {}

    return {"jobs": listed, "run-job": run, "switch-job": switch}


def _name(arguments: Mapping[str, Any]) -> str:
    if not isinstance(name := arguments.get("name"), str):
        raise EmosllmError("say which job, by its name")
    return name

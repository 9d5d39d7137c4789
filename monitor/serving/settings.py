"""What `serve` tells the door, which vLLM makes in a process of its own: through one variable of the environment."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

VARIABLE = "EMOSLLM_DOOR"

ADAPTERS_OF_A_CLIENT = 4
"""So many adapters of one client are kept; the least recently used goes first. A monitor needs the one in use and one to go back to."""


class DoorSettings(BaseModel):
    """bundle: folder of the one that is served. clients: the file of those who may ask; None: whoever reaches the server.

    adapters: the folder for those of the clients. rank: the highest they may have. at_a_time: requests that vLLM is handed at once.
    of_each: requests that one client may have open, waiting ones included.
    """

    model_config = ConfigDict(frozen=True)

    bundle: Path
    clients: Path | None
    adapters: Path
    rank: int
    at_a_time: Annotated[int, Field(ge=1)] = 64
    of_each: Annotated[int, Field(ge=1)] = 128

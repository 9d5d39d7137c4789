"""How vLLM is started for a bundle: the arguments and the environment of its own OpenAI server, which then takes this process's place.

All flags are here; the files in deploy/ hold the same ones, and a test holds them equal.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from model.bundle import weights_source
from model.bundle_format import find_bundle, read_bundle_manifest
from model.emotions import Emotion
from model.errors import ServingError
from model.extras import require
from model.language_model import LORA_TARGETS
from monitor.config import Precision, is_loopback_host
from monitor.inference.engines.base import adapter_rank, has_gpu, precision_arguments
from monitor.inference.engines.server import BLOCK_TOKENS
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT
from monitor.server.clients import read_clients
from monitor.server.limits import GATEWAY_VARIABLE, GatewaySettings

GATEWAY = "monitor.server.gateway.Gateway"
VLLM_MODULE = "vllm.entrypoints.launchers.api_server.entry"

# So many adapters may be in one batch; each takes room on the accelerator whether it is used or not.
_MAX_LORAS = 8


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `serve` was told. max_adapters: kept in memory beside the bundle's own. passed_on: further arguments for vLLM."""

    bundle: str
    host: str
    port: int
    certificate: Path | None
    certificate_key: Path | None
    clients: Path
    adapters: Path
    max_adapters: int
    at_a_time: int
    of_each: int
    tensor_parallel: int
    data_parallel: int
    precision: Precision = "auto"
    passed_on: Sequence[str] = ()


def server_arguments(bundle_folder: Path, llm: str, version: str) -> list[str]:
    """The arguments with which any vLLM OpenAI server of the same version serves a bundle to ServerEngine. llm: as vLLM finds it."""
    return [
        *("--model", llm, "--enable-prompt-embeds", "--enable-prefix-caching"),
        *("--enable-lora", "--max-lora-rank", str(adapter_rank(bundle_folder)), "--lora-target-modules", *LORA_TARGETS),
        *("--lora-modules", f"{version}={bundle_folder / 'adapter'}"),
        *("--logprobs-mode", "processed_logprobs", "--max-logprobs", str(len(Emotion))),
        *("--chat-template-content-format", "string", "--block-size", str(BLOCK_TOKENS)),
    ]


def sharing_arguments(max_adapters: int) -> list[str]:
    """The arguments that let many monitors share a server: adapters side by side, the door, and nothing of anyone in the logs."""
    return [
        *("--max-loras", str(min(max_adapters + 1, _MAX_LORAS)), "--max-cpu-loras", str(max_adapters + 1)),
        *("--middleware", GATEWAY, "--uvicorn-log-level", "warning", "--disable-fastapi-docs"),
    ]


def vllm_arguments(serving: ServerOptions) -> list[str]:
    """All arguments of vLLM's server. Raises BundleError, EngineRejected."""
    folder = find_bundle(serving.bundle)
    manifest = read_bundle_manifest(folder)
    certificate: list[str] = []
    if serving.certificate and serving.certificate_key:
        certificate = ["--ssl-certfile", str(serving.certificate), "--ssl-keyfile", str(serving.certificate_key), "--enable-ssl-refresh"]
    return [
        *server_arguments(folder, weights_source(folder, manifest.llm), manifest.version),
        *sharing_arguments(serving.max_adapters),
        *("--host", serving.host, "--port", str(serving.port), *certificate),
        *("--tensor-parallel-size", str(serving.tensor_parallel), "--data-parallel-size", str(serving.data_parallel)),
        *(part for name, value in precision_arguments(serving.precision).items() for part in (f"--{name}", value)),
        *([] if has_gpu() else _cpu_arguments(serving)),
        *serving.passed_on,
    ]


def vllm_environment(serving: ServerOptions) -> dict[str, str]:
    """The environment of vLLM's server, on top of this process's. Raises BundleError."""
    folder = find_bundle(serving.bundle)
    clients = serving.clients if serving.clients.exists() else None
    door = GatewaySettings(
        bundle=folder.absolute(),
        clients=clients and clients.absolute(),
        adapters=serving.adapters.absolute(),
        rank=adapter_rank(folder),
        at_a_time=serving.at_a_time,
        of_each=serving.of_each,
    )
    told = {
        GATEWAY_VARIABLE: door.model_dump_json(),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    # Keys are the door's business; one that vLLM asks for besides would let nobody in.
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    return {**LIBRARY_ENVIRONMENT, **({} if has_gpu() else _cpu_environment(serving)), **kept, **told}


def check_options(serving: ServerOptions) -> None:
    """Raises ServingError where the server would be open to others without keys or without encryption."""
    if (serving.certificate is None) != (serving.certificate_key is None):
        raise ServingError("--tls-cert and --tls-key belong together: name both, or neither")
    for path in (serving.certificate, serving.certificate_key):
        if path is not None and not os.access(path, os.R_OK):
            raise ServingError(f"{path} cannot be read")
    clients = read_clients(serving.clients)
    if serving.clients.exists() and not clients:
        raise ServingError(f"{serving.clients} names nobody, so nobody could ask; add one: emosllm-monitor serve add-client NAME")
    if is_loopback_host(serving.host):
        return
    if serving.certificate is None:
        raise ServingError(
            f"{serving.host} is open to other machines, so the server needs a certificate: name it with --tls-cert and --tls-key,"
            " or listen on 127.0.0.1, behind something that has one"
        )
    if not clients:
        raise ServingError(
            f"{serving.host} is open to other machines, so the server needs to know who may ask: emosllm-monitor serve add-client NAME"
        )


def exec_vllm(serving: ServerOptions) -> NoReturn:
    """vLLM takes this process's place. Raises ServingError, BundleError, EngineRejected."""
    check_options(serving)
    require("prometheus_client")
    arguments, environment = vllm_arguments(serving), vllm_environment(serving)
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", VLLM_MODULE, *arguments], environment)


def _cpu_arguments(serving: ServerOptions) -> list[str]:
    """A small model needs no process of its own for each worker."""
    return ["--enforce-eager", *(["--distributed-executor-backend", "uni"] if _is_single_process(serving) else [])]


def _cpu_environment(serving: ServerOptions) -> dict[str, str]:
    """On a CPU vLLM makes "uni" a process of its own after all, which waits busily for a second after each question, unless told so."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if _is_single_process(serving) else {})}


def _is_single_process(serving: ServerOptions) -> bool:
    return serving.tensor_parallel == serving.data_parallel == 1

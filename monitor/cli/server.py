"""The shared vLLM server: start it, and manage its clients."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monitor.config import PACKAGED_BUNDLE, Precision
from monitor.paths import adapters_dir, clients_file

_PASSED_ON = "passed on"
_SEPARATOR = "--"


class _Group(TyperGroup):
    """What is typed behind `--` is for vLLM, and no command of ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Part the arguments; see click."""
        if _SEPARATOR in args:
            at = args.index(_SEPARATOR)
            ctx.meta[_PASSED_ON] = args[at + 1 :]
            args = args[:at]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


serve = typer.Typer(cls=_Group, invoke_without_command=True)

Clients = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File of clients (default: clients.json in ~/.local/state/emosllm-monitor).")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Client name: lower-case letters, digits and hyphens.")]


@serve.callback()
def start(
    context: typer.Context,
    bundle: Annotated[str, typer.Option(help="The bundle to serve to everyone: compact, or a folder.")] = PACKAGED_BUNDLE,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback requires TLS and clients.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS certificate chain (PEM).")] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TLS private key (PEM). Both files are reloaded when they change.")
    ] = None,
    clients: Clients = None,
    adapters: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the clients' own adapters.")] = None,
    max_adapters: Annotated[
        int, typer.Option(min=1, max=10_000, help="Maximum number of adapters in memory; least recently used ones are unloaded.")
    ] = 32,
    at_a_time: Annotated[
        int, typer.Option(min=1, max=10_000, help="Maximum number of concurrent requests to vLLM; others wait in a queue.")
    ] = 64,
    of_each: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of open requests per client.")] = 128,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Number of accelerators per copy of the model.")] = 1,
    data_parallel: Annotated[int, typer.Option(min=1, help="Number of copies of the model.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Precision of the language model's weights; fp8 needs a GPU or AMX.")] = "auto",
) -> None:
    """Run a vLLM server shared by many monitors (`[engine] kind = "server"`). Arguments after `--` go to vLLM.

    No audio is sent to the server, only embeddings, which are discarded after each request.
    """
    if context.invoked_subcommand is not None:
        return
    from monitor.server.launch import ServerOptions, exec_vllm

    serving = ServerOptions(
        bundle=bundle,
        host=host,
        port=port,
        certificate=tls_cert,
        certificate_key=tls_key,
        clients=_file(clients),
        adapters=adapters or adapters_dir(),
        max_adapters=max_adapters,
        at_a_time=at_a_time,
        of_each=of_each,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        precision=precision,
        passed_on=context.meta.get(_PASSED_ON, ()),
    )
    exec_vllm(serving)


@serve.command("add-client")
def add(
    name: Name,
    clients: Clients = None,
    operator: Annotated[bool, typer.Option("--operator", help="Allow access to /metrics, which count everyone's requests.")] = False,
) -> None:
    """Create a client. Its API key is shown once."""
    from monitor.server.clients import add_client

    print(add_client(_file(clients), name, operator=operator))
    print(f"API key of {name}: give it only to that monitor ([engine] key_file). It is not shown again", file=sys.stderr)


@serve.command("remove-client")
def remove(name: Name, clients: Clients = None) -> None:
    """Remove a client. Its API key stops working at once."""
    from monitor.server.clients import remove_client

    remove_client(_file(clients), name)
    print(f"removed {name}")


@serve.command("clients")
def list_(clients: Clients = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List clients and when they were created."""
    from monitor.server.clients import read_clients

    known = read_clients(_file(clients))
    if as_json:
        print(json.dumps({name: {"since": client.since, "operator": client.operator} for name, client in known.items()}, indent=1))
        return
    for name, client in known.items():
        print(f"{name:40}  since {client.since}{'  operator' if client.operator else ''}")
    print(f"{len(known)} clients" if known else "no clients: anyone who reaches the server can use it", file=sys.stderr)


def _file(clients: Path | None) -> Path:
    return clients or clients_file()

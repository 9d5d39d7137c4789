"""The shared vLLM server: start it, and manage its clients."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from monitor.config import PACKAGED_BUNDLE, Precision, state_dir

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
    Path | None, typer.Option(metavar="FILE", help="Who may ask; by default clients.json in ~/.local/state/emosllm-monitor.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and hyphens.")]


@serve.callback()
def start(
    context: typer.Context,
    bundle: Annotated[str, typer.Option(help="The model that everyone may use: compact, or a folder.")] = PACKAGED_BUNDLE,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need TLS and clients.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate, with those it is signed by; PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key; both are read again when they change.")] = None,
    clients: Clients = None,
    adapters: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the clients' own models are kept.")] = None,
    max_adapters: Annotated[int, typer.Option(min=1, max=10_000, help="So many of them in memory; the least recently used go.")] = 32,
    at_a_time: Annotated[int, typer.Option(min=1, max=10_000, help="Requests that vLLM is handed at once; others wait their turn.")] = 64,
    of_each: Annotated[int, typer.Option(min=1, max=10_000, help="Requests that one client may have open.")] = 128,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Accelerators that share one copy of the model.")] = 1,
    data_parallel: Annotated[int, typer.Option(min=1, help="Copies of the model.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Numbers of the language model's weights; fp8 needs a GPU or AMX.")] = "auto",
) -> None:
    """Let many monitors share one vLLM server (`[engine] kind = "server"`). What follows `--` is for vLLM.

    Their sound never gets here: only vectors do, which are forgotten once they are answered.
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
        adapters=adapters or state_dir() / "adapters",
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
    operator: Annotated[bool, typer.Option("--operator", help="It may read /metrics, which count everyone's requests.")] = False,
) -> None:
    """Let somebody ask, from now on. Prints the key, once: it is kept nowhere."""
    from monitor.server.clients import add_client

    print(add_client(_file(clients), name, operator=operator))
    print(f"this is the key of {name}; give it to that monitor alone ([engine] key_file), it is not shown again", file=sys.stderr)


@serve.command("remove-client")
def remove(name: Name, clients: Clients = None) -> None:
    """Somebody may not ask any more, from now on."""
    from monitor.server.clients import remove_client

    remove_client(_file(clients), name)
    print(f"{name} may not ask any more")


@serve.command("clients")
def list_(clients: Clients = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Who may ask, and since when."""
    from monitor.server.clients import read_clients

    known = read_clients(_file(clients))
    if as_json:
        print(json.dumps({name: {"since": client.since, "operator": client.operator} for name, client in known.items()}, indent=1))
        return
    for name, client in known.items():
        print(f"{name:40}  since {client.since}{'  operator' if client.operator else ''}")
    print(f"{len(known)} may ask" if known else "nobody is named: who reaches the server may ask", file=sys.stderr)


def _file(clients: Path | None) -> Path:
    return clients or state_dir() / "clients.json"

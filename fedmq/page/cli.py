"""``coordinator serve``: its options, and the process that answers."""

import ipaddress
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.config.sections import CoordinatorConfig, read_config
from federation.errors import ConfigError, StorageError
from fedmq.alerts.cli import follower_of
from fedmq.home_assistant.publisher import make_publisher
from fedmq.run_view import RunView

__all__ = ["TOKEN_VARIABLE", "serve"]

TOKEN_VARIABLE = "FEDMQ_PAGE_TOKEN"  # noqa: S105 - a variable's name
PORT = 8790


def serve(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    config: Annotated[
        Path | None, typer.Option(help="The coordinator's TOML file, or the folder of coordinator init.", exists=True)
    ] = None,
    state: Annotated[Path | None, typer.Option(help="State folder, instead of the configuration's.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at: this machine only, unless another is given.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65_535)] = PORT,
    certificate: Annotated[Path | None, typer.Option(help="Certificate chain (PEM), for https.", exists=True)] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", exists=True)] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that visitors need.", exists=True)
    ] = None,
    home_assistant: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Show it in Home Assistant too, through this broker; see [home_assistant]."),
    ] = None,
) -> None:
    """Show a run on a page: what it waits for, its curves, its nodes; with JSON and Prometheus' numbers beside it.

    This process only reads the state folder: stopped, killed or flooded, it cannot hurt the coordinator. At an address
    of other machines it asks for a token, of FEDMQ_PAGE_TOKEN or --token-file; without one it makes one and prints it.
    With --config it sends alerts too, where the configuration says to whom, and shows the federation and its nodes in
    Home Assistant, where [home_assistant] or --home-assistant names its broker.

    \b
    Examples:
      coordinator serve --config plant
      coordinator serve --state state/coordinator --host 0.0.0.0 --certificate page.crt --key page.key
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = None if config is None else read_config(config, {"home_assistant.broker": home_assistant})
    if settings is None and home_assistant is not None:
        raise ConfigError("--home-assistant", "needs --config, which names the federation", source="command line")
    folder = state or (None if settings is None else settings.store.folder)
    if folder is None:
        raise ConfigError("--state", "name the state folder, or give --config", source="command line")
    if (certificate is None) is not (key is None):
        raise ConfigError("--certificate", "goes with --key", source="command line")
    token, local = _token(token_file), _is_loopback(host)
    made = "" if token or local else secrets.token_urlsafe(24)
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from fedmq.page.server import Access, make_server  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        missing = f"the page needs {error.name}: pip install 'fedmq[page]'"
        raise ConfigError("serve", missing, source="this environment") from error
    if not folder.is_dir():
        raise StorageError(f"there is no state folder {folder}: has a coordinator run with it?")
    listening = _listen(host, port)
    _tell(listening, host, made, secure=certificate is not None)
    if settings is not None and config is not None and state is None and settings.alerts.somebody_is_told:
        follower = follower_of(settings, config)
        threading.Thread(target=follower.run, args=(threading.Event(),), daemon=True).start()
    stopped = threading.Event()
    publishing = _publish(settings, folder, stopped)
    options = uvicorn.Config(
        make_server(folder, Access(token=token or made, local=local and not token)),
        log_level="warning",
        ssl_certfile=certificate,
        ssl_keyfile=None if key is None else str(key),
        timeout_graceful_shutdown=1,
        limit_concurrency=1000,
    )
    uvicorn.Server(options).run(sockets=[listening])
    if publishing is not None:
        stopped.set()
        publishing.join()


def _publish(settings: CoordinatorConfig | None, folder: Path, stopped: threading.Event) -> threading.Thread | None:
    """Show it in Home Assistant, where a broker for that is named."""
    if settings is None or not settings.home_assistant.broker:
        return None
    publisher = make_publisher(settings.home_assistant, settings.federation.id, RunView(folder).now)
    thread = threading.Thread(target=publisher.run, args=(stopped,), daemon=True)
    thread.start()
    return thread


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    token = file.read_text().strip()
    if not token:
        raise ConfigError("--token-file", f"{file} is empty", source="command line")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is said.

    Raises:
        ConfigError: It is taken, or the address is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _bound(socket.socket(family, kind), address)
    except OSError as error:
        problem = f"cannot listen at {host} port {port}: {error}; choose another --port, or 0 for a free one"
        raise ConfigError("--port", problem, source="command line") from error


def _bound(listening: socket.socket, address: Any) -> socket.socket:
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # From here on who comes waits, instead of being turned away, until all is loaded.
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def _tell(listening: socket.socket, host: str, made: str, *, secure: bool) -> None:
    """Say where the page is; of a token only one that was made just now, which nobody knows else."""
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    address = f"{'https' if secure else 'http'}://{shown}:{port}/"
    typer.echo(f"the page is at {address}{f'?token={made}' if made else ''} (Ctrl-C ends it; the run goes on)")
    if not secure and not _is_loopback(host):
        typer.echo("it is not encrypted: whoever listens on the network reads the token; see --certificate", err=True)

"""``coordinator serve``: its options, and the process that answers."""

import errno
import ipaddress
import json
import os
import secrets
import signal
import socket
import sys
import threading
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.documents import read_file
from federation.errors import ConfigError, StorageError
from fedmq.page.options import STOPPING, PageOptions

if TYPE_CHECKING:
    from coordinator.config.sections import CoordinatorConfig

__all__ = ["TOKEN_VARIABLE", "serve"]

TOKEN_VARIABLE = "FEDMQ_PAGE_TOKEN"  # noqa: S105 - a variable's name
TOKEN_BYTES_MAX = 4_096
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
        typer.Option(metavar="URL", help="Show it in Home Assistant too, through this broker."),
    ] = None,
) -> None:
    """Show a run on a page: what it waits for, its curves, its nodes; with JSON and Prometheus' numbers beside it.

    This process only reads the state folder: stopped, killed or flooded, it cannot hurt the coordinator. At an address
    of other machines it asks for a token, of FEDMQ_PAGE_TOKEN or --token-file; without one it makes one and prints it.
    With --config it sends alerts too, where the configuration says to whom, and shows the federation and its nodes in
    Home Assistant, where its broker is named: by --home-assistant, or in the configuration.

    \b
    Examples:
      coordinator serve --config plant
      coordinator serve --state state/coordinator --host 0.0.0.0 --certificate page.crt --key page.key
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = _settings(config, home_assistant)
    folder = state or (None if settings is None else settings.store.folder)
    if folder is None:
        raise ConfigError("--state", "name the state folder, or give --config", source="command line")
    if (certificate is None) is not (key is None):
        raise ConfigError("--certificate", "goes with --key", source="command line")
    if certificate is not None and key is not None:
        _check_pair(certificate, key)
    token, local = _token(token_file), _is_loopback(host)
    made = "" if token or local else secrets.token_urlsafe(24)
    missing = next((name for name in ("uvicorn", "starlette", "prometheus_client") if find_spec(name) is None), None)
    if missing is not None:
        raise ConfigError("serve", f"the page needs {missing}: pip install 'fedmq[page]'", source="this environment")
    if not folder.is_dir():
        raise StorageError(f"there is no state folder {folder}: has a coordinator run with it?")
    listening = _listen(host, port)
    alerts = settings is not None and state is None and settings.alerts.somebody_is_told
    alone = settings is None or config is None or not (alerts or settings.home_assistant.broker)
    if alone:
        # Once it is told where the page is, who ends it while the new process loads is heard as soon as that can hear.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    _tell(listening, host, made, secure=certificate is not None)
    options = PageOptions(
        state=str(folder.absolute()),
        socket_fd=listening.detach(),
        token=token or made,
        local=local and not token,
        certificate="" if certificate is None else str(certificate.absolute()),
        key="" if key is None else str(key.absolute()),
        **_fleet(config),
    )
    if alone or settings is None or config is None:
        _begin_anew(options)
    else:
        _serve_and_tell(options, settings, config, alerts=alerts)


def _fleet(config: Path | None) -> dict[str, str]:
    if config is None or not config.is_dir():
        return {}
    from coordinator.enrolment.folder import FleetFolder  # noqa: PLC0415 - the settings are read by now

    return {"fleet": str(config.absolute()), "register": str(FleetFolder(config.absolute()).register)}


def _settings(config: Path | None, home_assistant: str | None) -> "CoordinatorConfig | None":
    if config is None:
        if home_assistant is not None:
            raise ConfigError("--home-assistant", "needs --config, which names the federation", source="command line")
        return None
    from coordinator.config.sections import read_config  # noqa: PLC0415 - of pydantic alone 30 MB

    return read_config(config, {"home_assistant.broker": home_assistant})


def _serve_and_tell(options: PageOptions, settings: "CoordinatorConfig", config: Path, *, alerts: bool) -> None:
    """Serve, and tell others meanwhile: people who asked for alerts, and Home Assistant."""
    from federation.runtime.log import configure_log  # noqa: PLC0415 - only where something is told
    from fedmq.page.process import serve_page  # noqa: PLC0415 - an extra

    configure_log(json=settings.log.as_json, level=settings.log.level)
    if alerts:
        from fedmq.alerts.cli import follower_of  # noqa: PLC0415 - only where it is used

        follower = follower_of(settings, config)
        threading.Thread(target=follower.run, args=(threading.Event(),), daemon=True).start()
    stopped = threading.Event()
    publishing = _publish(settings, Path(options.state), stopped)
    serve_page(options)
    if publishing is not None:
        stopped.set()
        publishing.join()


def _begin_anew(options: PageOptions) -> None:
    """Become a process that serves the page, and has loaded nothing else; it does not return."""
    os.set_inheritable(options.socket_fd, True)
    # A pipe: arguments and environment of a process can be read by others, and a token is among these.
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    os.write(theirs, json.dumps(asdict(options)).encode())
    os.close(theirs)
    sys.stdout.flush()
    sys.stderr.flush()
    # Each thread would keep freed memory for itself.
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ}
    os.execve(sys.executable, [sys.executable, "-m", "fedmq.page.process", str(ours)], environment)  # noqa: S606


def _publish(settings: "CoordinatorConfig", folder: Path, stopped: threading.Event) -> threading.Thread | None:
    """Show it in Home Assistant, where a broker for that is named."""
    if not settings.home_assistant.broker:
        return None
    from fedmq.home_assistant.publisher import make_publisher  # noqa: PLC0415 - only where it is used
    from fedmq.run_view import RunView  # noqa: PLC0415 - as above

    publisher = make_publisher(settings.home_assistant, settings.federation.id, RunView(folder).now)
    thread = threading.Thread(target=publisher.run, args=(stopped,), daemon=True)
    thread.start()
    return thread


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = read_file(file, bytes_max=TOKEN_BYTES_MAX).decode().strip()
    except (OSError, ValueError) as error:
        raise ConfigError("--token-file", f"cannot be read: {error}", source="command line") from error
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
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            problem = f"{host} is no address of this machine; 0.0.0.0 is all of them"
            raise ConfigError("--host", problem, source="command line") from error
        problem = f"cannot listen at {host} port {port}: {error}; choose another --port, or 0 for a free one"
        raise ConfigError("--port", problem, source="command line") from error


def _check_pair(certificate: Path, key: Path) -> None:
    """See that browsers can be answered before anything is said.

    Raises:
        ConfigError: They are no certificate and its key.
    """
    import ssl  # noqa: PLC0415 - only for https

    try:
        # A key with a password would wait for somebody to type it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        problem = f"{certificate} and {key} are no certificate chain and its key in PEM, without a password: {error}"
        raise ConfigError("--certificate", problem, source="command line") from error


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
    # Every address of this machine is none that a visitor can open.
    host_shown = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    shown = f"[{host_shown}]" if ":" in host_shown else host_shown
    address = f"{'https' if secure else 'http'}://{shown}:{port}/"
    typer.echo(f"the page is at {address}{f'?token={made}' if made else ''} (Ctrl-C ends it; the run goes on)")
    if not secure and not _is_loopback(host):
        typer.echo("it is not encrypted: whoever listens on the network reads the token; see --certificate", err=True)

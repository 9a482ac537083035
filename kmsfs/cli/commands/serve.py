"""``kmsfs serve``: the key management service on AWS's wire protocol."""

import ipaddress
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kmsfs.cli.hardening import forbid_inspection, harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.logfile import log_to_stderr
from kmsfs.cli.options import HELP_NAMES
from kmsfs.cli.terminal import print_fields, print_line
from kmsfs.errors import AddressUnavailableError, RegionNotFoundError, UsageError
from kmsfs.keystore.arn import ROOT

if TYPE_CHECKING:
    import trio

    from kmsfs.api.server import Listener, Server
    from kmsfs.keystore.service import Keystore

DEFAULT_BIND: Final = "127.0.0.1:7600"


@click.command("serve", context_settings=HELP_NAMES)
@click.option(
    "--bind", metavar="ADDRESS:PORT", default=DEFAULT_BIND, help=f"Where to listen [{DEFAULT_BIND}]."
)
@click.option("--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="Certificate chain, PEM.")
@click.option("--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Its private key, PEM.")
def command(bind: str, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Serve the keys to AWS's own clients.

    Every configured region is served on one port. The first access key, of the account's
    root, is printed once if there is none.

    \b
    Example:
      kmsfs serve --bind 127.0.0.1:7600
    """
    import trio

    host, port = parse_bind(bind)
    tls = tls_context(tls_cert, tls_key)
    if tls is None and not ipaddress.ip_address(host).is_loopback:
        raise UsageError(
            f"serving on {host} needs TLS: others could read what passes",
            hint="give --tls-cert and --tls-key, or listen on 127.0.0.1",
        )
    harden_process()
    forbid_inspection()
    log_to_stderr()
    with open_keystore(via="server") as keystore:
        if not keystore.regions():
            raise RegionNotFoundError("no region is configured", hint="kmsfs region add REGION")
        trio.run(_serve, keystore, host, port, tls)


def parse_bind(text: str) -> tuple[str, int]:
    """Return address and port of ADDRESS:PORT; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = "127.0.0.1" if host == "localhost" else host[1:-1] if bracketed else host
    try:
        version = ipaddress.ip_address(host).version
        if bracketed != (version == 6) or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(text)
    except ValueError:
        raise UsageError(f"{text!r} is no address and port", hint=f"for example {DEFAULT_BIND}") from None
    return host, int(port)


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what TLS is spoken with, or None."""
    if (cert is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key belong together")
    if cert is None or key is None:
        return None
    for path in (cert, key):  # whose absence ssl would tell without its name
        path.open("rb").close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def passphrase() -> str:  # else OpenSSL would ask on the terminal
        raise UsageError(
            f"{key} is protected by a passphrase", hint="openssl pkey -in FILE -out FILE writes it without"
        )

    try:
        context.load_cert_chain(cert, key, passphrase)
    except ssl.SSLError:
        raise UsageError(f"{cert} and {key} are no certificate and its key in PEM") from None
    return context


async def _serve(keystore: "Keystore", host: str, port: int, tls: ssl.SSLContext | None) -> None:
    import trio

    from kmsfs.api.server import Server

    sockets = await _listen(host, port)
    listeners: list[Listener] = [
        trio.SSLListener(listener, tls, https_compatible=True) if tls else listener for listener in sockets
    ]
    if all(entry.principal != ROOT for entry in keystore.credentials.list()):
        _print_first(keystore)
    server = Server(keystore)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_told, server, signals)
            bound = sockets[0].socket.getsockname()[1]
            print_line(f"serving on {'https' if tls else 'http'}://{_address(host, bound)}")
            sys.stdout.flush()
            await server.run(listeners)
            nursery.cancel_scope.cancel()


async def _listen(host: str, port: int) -> "list[trio.SocketListener]":
    import trio

    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise AddressUnavailableError(
            f"cannot listen on {_address(host, port)}: {(error.strerror or '').lower()}",
            hint="see what listens there already, or give another --bind",
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _stop_when_told(server: "Server", signals: AsyncIterator[int]) -> None:
    async for _ in signals:
        server.stop()


def _print_first(keystore: "Keystore") -> None:
    first = keystore.credentials.create()
    print_line("access key of the account's root, shown this once:")
    print_fields({"access key id": first.access_key_id, "secret access key": first.secret})

"""The control socket of a mount: where tools and commands have a mounted tree changed by the process that serves it.

A unix socket in the home, for the mount's own user and root alone. Whoever they are and whatever they send, the mount
goes on: a connection has one request of bounded size and an answer, and a time to live.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import trio

from kmsfs.errors import AccessDeniedError, FormatError, KmsfsError, MountFailedError, TreeBusyError
from kmsfs.fuse.boundary import places
from kmsfs.fuse.fast_loop import in_flight
from kmsfs.tree import frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Handler = Callable[[dict[str, Any]], Awaitable[object]]

log = logging.getLogger(__name__)

REQUEST_LIMIT_S: Final = 60.0  # for a request to arrive, and for its answer to be taken
_MAX_CLIENTS: Final = 16
_PIECE: Final = 1 << 16
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PREFIX: Final = "mount-"
_SUFFIX: Final = ".socket"


class ControlSocket:
    """The socket of this process. ``serve`` answers until it is cancelled; ``close`` takes the socket away."""

    def __init__(self, home: Path) -> None:
        self.path = home / "run" / f"{_PREFIX}{os.getpid()}{_SUFFIX}"
        self._clients = 0
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self._dir_fd = os.open(
                self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                self._socket = self._bind()
            except OSError:
                os.close(self._dir_fd)
                raise
        except OSError as error:
            raise MountFailedError(
                f"control socket {self.path} cannot be made: {os.strerror(error.errno or errno.EIO).lower()}"
            ) from error

    def _bind(self) -> socket.socket:
        # One at a time: a socket that is bound and does not listen yet looks like one that was left behind.
        fcntl.flock(self._dir_fd, fcntl.LOCK_EX)
        try:
            _remove_stale(self._dir_fd)
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                os.fchmod(bound.fileno(), 0o600)  # the mode that bind(2) gives to the name
                bound.bind(_short(self._dir_fd, self.path.name))
                bound.listen(_MAX_CLIENTS)
            except OSError:
                bound.close()
                raise
        finally:
            fcntl.flock(self._dir_fd, fcntl.LOCK_UN)
        return bound

    def close(self) -> None:
        """Take the socket away."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path.name, dir_fd=self._dir_fd)
        os.close(self._dir_fd)
        self._socket.close()

    async def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Answer requests, for ever."""
        self._socket.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                if self._clients >= _MAX_CLIENTS:
                    await _say(
                        stream, frames.failure(TreeBusyError("the mount has too many requests at once"))
                    )
                    return
                self._clients += 1
                try:
                    await _converse(stream, handlers)
                finally:
                    self._clients -= 1

        await trio.serve_listeners(answer, [listener])


def _short(dir_fd: int, name: str) -> str:
    """A path of a socket that fits into 108 bytes wherever the home is."""
    return f"/proc/self/fd/{dir_fd}/{name}"


def _remove_stale(dir_fd: int) -> None:
    """Remove the sockets of mounts that were killed: nobody listens there."""
    for name in os.listdir(dir_fd):
        if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)):
            continue
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.setblocking(False)
            refused = probe.connect_ex(_short(dir_fd, name)) == errno.ECONNREFUSED
        if refused:
            os.unlink(name, dir_fd=dir_fd)


async def _converse(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    """One request, one answer."""
    answer = None
    with trio.move_on_after(REQUEST_LIMIT_S), contextlib.suppress(trio.BrokenResourceError):
        try:
            _check_peer(stream)
            line = await _receive(stream)
        except KmsfsError as error:
            answer = frames.failure(error)
        else:
            answer = await _handle(line, handlers) if line else None
    if answer is not None:
        await _say(stream, answer)


async def _say(stream: trio.SocketStream, answer: Mapping[str, object]) -> None:
    with trio.move_on_after(REQUEST_LIMIT_S), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(frames.pack(answer))


def _check_peer(stream: trio.SocketStream) -> None:
    _, uid, _ = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (0, os.geteuid()):
        raise AccessDeniedError(f"user {uid} may not control this mount")


async def _receive(stream: trio.SocketStream) -> bytes:
    """One line without its end; nothing if the client says none."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = await stream.receive_some(_PIECE)
        if not piece:
            return b""
        line += piece
        if len(line) > frames.MAX_FRAME:
            raise FormatError(f"control message is longer than {frames.MAX_FRAME} bytes")
    return bytes(line)


async def _handle(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, object]:
    """Carry a request out, to its end even if the client goes."""
    in_flight.count += 1  # the loop that takes requests must not sleep while this one has work
    try:
        request = frames.parse(line)
        operation = frames.member(request, "operation", str)
        handler = handlers.get(operation)
        if handler is None:
            raise FormatError("control message asks for an unknown operation")
        with trio.CancelScope(shield=True):
            result = await handler(request)
        return {"result": result}
    except (KmsfsError, OSError) as error:
        log.info("control request refused: %s", error)
        return frames.failure(error)
    except Exception as error:
        log.error("control request: unexpected %s", type(error).__name__, exc_info=places(error))
        return frames.failure(error)
    finally:
        in_flight.count -= 1

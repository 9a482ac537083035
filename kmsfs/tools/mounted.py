"""The other end of a mount's control socket: has a mounted tree changed by the process that serves it."""

from __future__ import annotations

import base64
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kmsfs.errors import AccessDeniedError, FormatError, KmsfsError, NotMountedError, TreeBusyError
from kmsfs.tools.passes import Outcome, Planned
from kmsfs.tree import frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_REQUEST: Final = 2 << 20  # bytes of orders in a request
_MAX_REST: Final = 256  # bytes of an order besides its strings
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_ANSWER_LIMIT_S: Final = 600.0  # a batch of changes waits for the disk


class MountedTree:
    """A tree in the hands of a mount. Blocking; every call is a connection of its own."""

    def __init__(self, control: Path, root: object = None) -> None:
        """``root`` is the [device, inode] that the mount tells of the directory that it serves."""
        self._control = control
        self._root = root

    def require(self, root_fd: int, path: Path) -> None:
        """TreeBusyError unless an open directory, found at ``path``, is the one that the mount serves."""
        status = os.fstat(root_fd)
        if self._root != [status.st_dev, status.st_ino]:
            raise TreeBusyError(
                f"{path} is not what is mounted: the tree was moved or replaced",
                hint="unmount it, and mount it from where it is now",
            )

    def set_zone(self, entry_path: str, key_arn: str) -> None:
        """Make a directory a zone, or with an empty name of a key no zone of its own."""
        self._ask({"operation": "zone", "path": entry_path, "key_arn": key_arn})

    def moved(self) -> list[tuple[int, bytes]] | None:
        """Inode and path of what has got another name since this was last asked; None if that is not known."""
        places = self._ask({"operation": "moved"})
        return None if places is None else [(ino, os.fsencode(path)) for ino, path in places]

    def swap(self, planned: Sequence[Planned], *, touch: bool) -> list[Outcome | KmsfsError | OSError]:
        """Put headers in place; what became of each file."""
        outcomes: list[Outcome | KmsfsError | OSError] = []
        for files in _requests(planned):
            answers = self._ask({"operation": "swap", "files": files, "touch": touch})
            outcomes += [_outcome(answer) for answer in answers]
        return outcomes

    def wait_for_swaps(self) -> None:
        """Return when nothing is under way that somebody has asked for who may have been killed since."""
        self._ask({"operation": "swap", "files": [], "touch": False})

    def reload(self) -> None:
        """Have the superblock read again, after it was replaced."""
        self._ask({"operation": "reload"})

    def follow(self) -> None:
        """Have it make what it makes from here on under keys' current material."""
        self._ask({"operation": "follow"})

    def _ask(self, request: dict[str, object]) -> Any:
        with self._connected() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused unread: the answer says why
                connection.sendall(frames.pack(request))
            return frames.result(frames.parse(_line(connection)))

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            directory = os.open(self._control.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # a path of a socket has at most 108 bytes
                connection.connect(f"/proc/self/fd/{directory}/{self._control.name}")
                self._check_peer(connection, os.fstat(directory).st_uid)
            finally:
                os.close(directory)
            connection.settimeout(_ANSWER_LIMIT_S)  # not before: a full queue would be an error at once
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            raise NotMountedError(f"no mount listens on {self._control}", hint="kmsfs status") from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_peer(self, connection: socket.socket, owner: int) -> None:
        """Only root and the owner of the directory of sockets can be the mount."""
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, user, _ = _PEER.unpack(peer)
        if user not in (0, owner):
            raise AccessDeniedError(f"user {user} listens on {self._control}, which is not theirs")


def control_of(status: dict[str, Any]) -> MountedTree:
    """The way to change the tree of a mount, from what the mount says of itself."""
    if status.get("control") is None:
        raise TreeBusyError(
            f"{status['mountpoint']} is mounted read-only", hint="unmount it, or mount it without -o ro"
        )
    return MountedTree(Path(status["control"]), status.get("root"))


def _requests(planned: Sequence[Planned]) -> Iterator[list[dict[str, object]]]:
    """Orders in pieces that fit into a request each, whatever the length of their paths."""
    files: list[dict[str, object]] = []
    size = 0
    for plan in planned:
        order = _order(plan)
        length = _MAX_REST + sum(len(value) for value in order.values() if isinstance(value, str))
        if files and size + length > _MAX_REQUEST:
            yield files
            files, size = [], 0
        files.append(order)
        size += length
    if files:
        yield files


def _order(plan: Planned) -> dict[str, object]:
    return {
        "path": os.fsdecode(plan.job.path),
        "ino": os.fstat(plan.job.fd).st_ino,
        "header": base64.b64encode(plan.job.raw).decode("ascii"),
        "newest_copy": plan.swap.newest_copy,
        "sealed": base64.b64encode(plan.swap.sealed).decode("ascii"),
    }


def _outcome(answer: str | dict[str, Any]) -> Outcome | KmsfsError | OSError:
    if isinstance(answer, str):
        return Outcome(answer)
    try:
        frames.result(answer)
    except (KmsfsError, OSError) as error:
        return error
    raise FormatError("the mount answered with neither an outcome nor an error")


def _line(connection: socket.socket) -> bytes:
    answer = bytearray()
    while not answer.endswith(b"\n"):
        piece = b""
        with suppress(ConnectionResetError):
            piece = connection.recv(1 << 16)
        if not piece:
            raise NotMountedError("the mount ended before it answered", hint="kmsfs status")
        answer += piece
    return bytes(answer)

"""One FUSE session: mount, serve, unmount. Blocks until the mount is gone and everything is sealed."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from kmsfs.errors import MountFailedError
from kmsfs.fuse import fast_loop
from kmsfs.fuse.control import ControlSocket
from kmsfs.fuse.operations import Operations
from kmsfs.fuse.requests import handlers
from kmsfs.storage.backing import syncfs
from kmsfs.tree.tree import Tree
from kmsfs.tree.volume import TreeOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from kmsfs.keystore.service import Keystore

log = logging.getLogger(__name__)

_MNT_DETACH = 2
_MAX_WORKERS = 64
_M_TRIM_THRESHOLD = -1  # mallopt(3)
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What ``-o`` can say. Permissions are always checked by the kernel."""

    read_only: bool = False
    allow_other: bool = False
    noatime: bool = False
    nodev: bool = True
    nosuid: bool = True
    noexec: bool = False

    def for_fuse(self, tree: Path) -> set[str]:
        """The options that libfuse takes."""
        # pyfuse3 takes ASCII only; this name is for people who read the mount table.
        source = str(tree).encode("ascii", "backslashreplace").decode("ascii")
        source = source.replace("\\", "\\\\").replace(",", "\\,")
        options = {"default_permissions", "subtype=kmsfs", f"fsname={source}"}
        wanted = {
            "ro": self.read_only,
            "allow_other": self.allow_other,
            "noatime": self.noatime,
            "noexec": self.noexec,
        }
        return options | {name for name, on in wanted.items() if on}


def serve(
    keystore: Keystore,
    tree_path: Path,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None],
) -> None:
    """Mount ``tree_path`` on ``mountpoint`` and serve it until it is unmounted or SIGTERM or SIGINT comes.

    ``on_ready`` is called once requests are answered. Raises what opening the tree raises, and MountFailedError.
    """
    # What is loaded now lives as long as the mount, and a mount's inodes nearly as long: look at them rarely.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    trio.run(partial(_serve, keystore, tree_path, mountpoint, options, on_ready))


async def _serve(
    keystore: Keystore,
    tree_path: Path,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None],
) -> None:
    limit = max(64, _descriptor_limit() // 4)
    tree = Tree(
        keystore,
        tree_path,
        TreeOptions(read_only=options.read_only, noatime=options.noatime, max_unsealed=min(2048, limit)),
    )
    options = replace(options, read_only=tree.options.read_only)  # the tree may insist on it
    control = None
    try:
        started = time.time()
        control = None if options.read_only else ControlSocket(keystore.home)

        def status() -> dict[str, object]:
            return {
                "pid": os.getpid(),
                "tree": str(tree_path),
                "mountpoint": str(mountpoint),
                "since": started,
                "hsm_calls": keystore.hsm_calls,
                "control": str(control.path) if control else None,
                **tree.about(),
            }

        # From before the mount on: whoever sees it may end it.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            _mount(Operations(tree, status), mountpoint, options, tree_path)
            try:
                await _run(tree, control, mountpoint, signals, on_ready)
            finally:
                pyfuse3.close(unmount=True)
    finally:
        if control is not None:
            control.close()
        with trio.CancelScope(shield=True):
            await tree.close()


def _mount(operations: Operations, mountpoint: Path, options: MountOptions, tree_path: Path) -> None:
    fast_loop.install()
    logging.getLogger("pyfuse3").addFilter(_requester_is_there)
    _keep_request_buffers()
    try:
        pyfuse3.init(operations, str(mountpoint), options.for_fuse(tree_path))
    except RuntimeError as error:
        raise MountFailedError(
            f"cannot mount on {mountpoint}: {error}", hint="run kmsfs doctor; see the log for what FUSE said"
        ) from None


async def _run(
    tree: Tree,
    control: ControlSocket | None,
    mountpoint: Path,
    signals: AsyncIterator[int],
    on_ready: Callable[[], None],
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.run)
        if control is not None:
            nursery.start_soon(control.serve, handlers(tree))
        nursery.start_soon(_unmount_on_signal, signals, mountpoint)
        on_ready()
        await pyfuse3.main(min_tasks=1, max_tasks=_MAX_WORKERS)
        nursery.cancel_scope.cancel()


async def _unmount_on_signal(signals: AsyncIterator[int], mountpoint: Path) -> None:
    async for _ in signals:
        await trio.to_thread.run_sync(_flush_and_detach, mountpoint)
        pyfuse3.terminate()
        return


def _flush_and_detach(mountpoint: Path) -> None:
    """Write back what the kernel holds, then take the mount away, even from under its users. Runs beside the loop."""
    try:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
    except OSError as error:
        log.error("cannot flush the mount: %s", os.strerror(error.errno or errno.EIO))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) != 0:
        # Not root: pyfuse3.close detaches with fusermount3 after the loop has ended.
        log.debug("umount2: %s", os.strerror(ctypes.get_errno()))


def _keep_request_buffers() -> None:
    """Let malloc keep the memory of finished requests: by default it gives 1 MiB back and takes it again each time."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)


def _requester_is_there(record: logging.LogRecord) -> bool:
    """A reply that comes too late is no error: the program was killed, or the mount taken away from under it."""
    message = record.getMessage()
    return not ("fuse_reply_* failed" in message and os.strerror(errno.ENOENT) in message)


def _descriptor_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

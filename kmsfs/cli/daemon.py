"""Becoming a daemon, and telling the waiting parent how it went.

Fork twice before any thread or PKCS#11 module exists: neither survives a fork. The parent returns
only when the daemon says that it serves, or with the daemon's own message, hint and exit code.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Final, NoReturn

from kmsfs.cli.boundary import Failure, RemoteFailureError, describe, only_cause, redacted_traceback
from kmsfs.cli.processes import await_end, open_process
from kmsfs.errors import KmsfsError, MountFailedError

_END_LIMIT_S: Final = 30.0

_log = logging.getLogger(__name__)


class ParentLink:
    """The daemon's end of the pipe to the parent: one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def started(self) -> None:
        """Tell the parent whom to stop if the user loses patience."""
        self._send({"pid": os.getpid()})

    def ready(self) -> None:
        """Let the parent return. If it has gone without waiting, nobody wants this mount: stop."""
        try:
            self._send({"ready": True})
        except BrokenPipeError:
            _log.info("the starting command is gone; stopping")
            os.kill(os.getpid(), signal.SIGTERM)
        self.close()

    def failed(self, failure: Failure) -> None:
        """Hand the parent what to print; after ``ready`` there is nobody left to tell."""
        if self._descriptor is not None:
            try:
                self._send({"failed": asdict(failure)})
            except BrokenPipeError:
                _log.info("the starting command is gone")
            self.close()

    def close(self) -> None:
        """Close the pipe; the parent stops waiting."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _send(self, message: dict[str, object]) -> None:
        assert self._descriptor is not None  # noqa: S101 - sent after close
        os.write(self._descriptor, json.dumps(message).encode() + b"\n")


def start_daemon(work: Callable[[ParentLink], None], *, log: Path) -> None:
    """Run ``work`` in a daemon and return once it called ``ready``.

    In the daemon this never returns: ``work``'s end is the process's end, by SystemExit, so that
    the interpreter's exit handlers run.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    # Not to be interrupted before it is known whom to stop; the daemon tells at once.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        _await_ready(reader, log)
        return
    os.close(reader)
    _become_daemon(ParentLink(writer), keep=writer, work=work)


def _become_daemon(link: ParentLink, *, keep: int, work: Callable[[ParentLink], None]) -> NoReturn:
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.umask(0)  # modes come from the kernel's requests
        os.chdir("/")  # keeps no other file system busy
        _leave_descriptors(keep)
        link.started()
        work(link)
    except BaseException as error:
        failure = describe(error)
        link.failed(failure)
        _log.error("stopped: %s", failure.message)
        if not isinstance(only_cause(error), KmsfsError):
            _log.error("%s", redacted_traceback(error))
        raise SystemExit(failure.code) from None
    raise SystemExit(0)


def _leave_descriptors(keep: int) -> None:
    """Close what was inherited, and let nothing reach the terminal that started us."""
    devnull = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(devnull, standard)
    inherited = [int(name) for name in os.listdir("/proc/self/fd")]
    for descriptor in inherited:
        if descriptor > 2 and descriptor != keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own descriptor


def _await_ready(reader: int, log: Path) -> None:
    stream = os.fdopen(reader, "rb")
    first = json.loads(stream.readline() or b"{}")
    process = open_process(first["pid"]) if "pid" in first else None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with stream:
            for message in chain([first], map(json.loads, stream)):
                if "ready" in message:
                    return
                if "failed" in message:
                    _await_end(process)
                    raise RemoteFailureError(Failure(**message["failed"]))
        raise MountFailedError(
            "the mount's process ended before it served", hint=f"its last words may be in {log}"
        )
    except KeyboardInterrupt:
        if process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGTERM)
            _await_end(process)
        raise


def _await_end(process: int | None) -> None:
    """Leave no process behind; one that takes too long to log out of its token ends later."""
    if process is not None:
        await_end(process, _END_LIMIT_S)

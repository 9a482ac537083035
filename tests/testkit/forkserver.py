"""Commands as forks of one process that has imported ``kmsfs``: importing takes longer than most commands do.

A fork starts with the imported modules and with nothing else: no thread, no token, no file of another command. It runs
the same ``main`` that the installed script runs, on descriptors, environment and directory of its own.
"""

import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kmsfs
from kmsfs.cli.main import main

_LARGEST_REQUEST = 1 << 17  # a SOCK_SEQPACKET message; an environment is some kilobytes
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """What a command ended with."""

    code: int
    stdout: bytes
    stderr: bytes


class ForkServer:
    """The process, as the tests see it. It starts with the first command, and ends with ``stop`` or with the tests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._starting = threading.Lock()
        # On its command line and so on its forks', for who looks for what a test has left behind.
        self.mark = ""

    def _started(self) -> socket.socket:
        with self._starting:
            if self._requests is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "testkit.forkserver", self.mark],
                        stdin=theirs,
                        env={**os.environ, "PYTHONPATH": str(_TESTS)},
                    )
                self._requests = ours
            return self._requests

    def run(self, arguments: Sequence[str | Path], env: dict[str, str], stdin: bytes = b"") -> Ended:
        """Run ``kmsfs`` with ``arguments`` to its end and the end of its output.

        What is decided before ``kmsfs`` is imported is decided for all: the seed of hashes, the locale, limits.
        """
        argv = [os.fspath(argument) for argument in arguments]
        request = json.dumps({"argv": argv, "env": env, "cwd": os.getcwd()}).encode()
        assert len(request) <= _LARGEST_REQUEST
        requests = self._started()
        (out, out_end), (err, err_end), (code, code_end) = os.pipe(), os.pipe(), os.pipe()
        given, giving = os.pipe()
        ends = [given, out_end, err_end, code_end]
        try:
            socket.send_fds(requests, [request], ends)
        except BaseException:
            ends += [giving, out, err, code]
            raise
        finally:
            for end in ends:
                os.close(end)
        feeder = threading.Thread(target=_feed, args=(giving, stdin))
        feeder.start()
        said = _read_to_end(out, err, code)
        feeder.join()
        assert said[code], "the fork server died"
        return Ended(int(said[code]), said[out], said[err])

    @property
    def pid(self) -> int | None:
        """The process's pid; None if it does not run."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> None:
        """End the process, if it was started, and wait for it."""
        if self._process is not None and self._requests is not None:
            self._requests.close()
            assert self._process.wait() == 0
            self._process = self._requests = None


def _feed(pipe: int, data: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(pipe, "wb") as stream:
        stream.write(data)


def _read_to_end(*pipes: int) -> dict[int, bytes]:
    """What comes through each pipe; they are closed."""
    said = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector, ExitStack() as closing:
        for pipe in pipes:
            closing.callback(os.close, pipe)
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                part = os.read(key.fd, 65536)
                said[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
    return said


# --- the process itself ---------------------------------------------------------------------------
def _next_command() -> tuple[dict[str, Any], list[int]]:
    """Fork for each request on stdin, and say on its last descriptor how the command ended.

    Returns in each fork, with the request that it is to become; ends the process when nobody can send any more.
    """
    running: dict[int, tuple[int, int]] = {}  # by the command's pidfd: its pid and where to say how it ended
    with socket.socket(fileno=os.dup(0)) as requests, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    selector.unregister(key.fd)
                    _say_how_it_ended(key.fd, *running.pop(key.fd))
                    continue
                message, descriptors, _, _ = socket.recv_fds(requests, _LARGEST_REQUEST, 4)
                if not message:
                    os._exit(0)
                pid = os.fork()
                if not pid:
                    return json.loads(message), descriptors
                *given, answer = descriptors
                for descriptor in given:
                    os.close(descriptor)
                process = os.pidfd_open(pid)
                running[process] = (pid, answer)
                selector.register(process, selectors.EVENT_READ)


def _say_how_it_ended(process: int, pid: int, answer: int) -> None:
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # who waited was interrupted
        os.write(answer, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(answer)
    os.close(process)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the command: its stdin, stdout, stderr and nothing else open, its environment, its directory."""
    for standard in range(3):
        os.dup2(descriptors[standard], standard)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["kmsfs", *request["argv"]]


def _import_everything() -> None:
    for module in pkgutil.walk_packages(kmsfs.__path__, "kmsfs."):
        if module.name != "kmsfs.__main__":
            importlib.import_module(module.name)
    gc.freeze()  # a fork that collects does not copy all of it


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; who started the tests ends this, too
    _import_everything()
    _become(*_next_command())
    main()

"""The one place where an exception becomes a line on stderr and an exit code.

A person sees one line and a hint, never a traceback. ``KMSFS_DEBUG=1`` shows the frames; the
message of an exception that may quote data (``ValueError``, ``KeyError``) is withheld even then,
so that no key or PIN can come out.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

from kmsfs.cli.exitcodes import ExitCode, exit_code
from kmsfs.cli.terminal import one_line
from kmsfs.errors import KmsfsError

# Their messages are made of names of the program and of paths, never of data.
_SAFE_MESSAGES = (KmsfsError, OSError, TypeError, AttributeError, ImportError, NotImplementedError)


@dataclass(frozen=True)
class Failure:
    """What is said about an error, and the code that goes with it."""

    message: str
    hint: str
    code: int


class RemoteFailureError(Exception):
    """A failure that another process of kmsfs has described already."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; all output is flushed."""
    try:
        code = _invoke(command, list(arguments))
        sys.stdout.flush()
    except BaseException as error:
        return _report(error)
    return code


def _invoke(command: click.Command, arguments: list[str]) -> int:
    # Not click's own main(): it turns a broken pipe into exit code 1.
    try:
        with command.make_context("kmsfs", arguments) as context:
            result = command.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return int(result) if isinstance(result, int) else ExitCode.DONE


def _report(raised: BaseException) -> int:
    error = only_cause(raised)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return ExitCode.BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        failure = Failure("interrupted", "", ExitCode.INTERRUPTED)
    else:
        failure = describe(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _silence_stdout()
    _say(failure, raised)
    return failure.code


def _say(failure: Failure, error: BaseException) -> None:
    lines = [f"kmsfs: {one_line(failure.message)}"]
    if failure.hint:
        lines.append(f"hint: {one_line(failure.hint)}")
    if debugging():
        lines.append(redacted_traceback(error))
    try:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    except OSError:
        return  # nobody reads stderr; the exit code still tells


def _silence_stdout() -> None:
    """Keep the interpreter's last flush from failing once more, noisily."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def only_cause(error: BaseException) -> BaseException:
    """Return the one error that an exception group of trio's stands for, or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def describe(raised: BaseException) -> Failure:
    """Say what an error means to the person who ran the command."""
    error = only_cause(raised)
    if isinstance(error, RemoteFailureError):
        return error.failure
    if isinstance(error, KmsfsError):
        return Failure(str(error), error.hint, exit_code(error))
    if isinstance(error, click.UsageError):
        return _usage_failure(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return Failure(f"{where}{error.strerror.lower()}", "", ExitCode.FAILED)
    return Failure(
        f"unexpected {type(error).__name__}",
        "run it again with KMSFS_DEBUG=1 to see where; this is a defect of kmsfs, please report it",
        ExitCode.FAILED,
    )


def _usage_failure(error: click.UsageError) -> Failure:
    message, _, advice = error.format_message().strip().partition(". ")
    path = error.ctx.command_path if error.ctx else "kmsfs"
    hint = f"see '{path} --help'"
    if advice:
        hint = f"{advice[:1].lower()}{advice[1:]} {hint}"
    message = message.rstrip(".")
    return Failure(message[:1].lower() + message[1:], hint, ExitCode.USAGE)


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("KMSFS_DEBUG", "") not in ("", "0")


def redacted_traceback(error: BaseException) -> str:
    """Return frames and exception types of the whole chain, and the messages that cannot hold data."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        message = f": {one_line(str(current))}" if isinstance(current, _SAFE_MESSAGES) else ""
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"{frames}{type(current).__name__}{message}")
        if isinstance(current, BaseExceptionGroup):
            parts.extend(redacted_traceback(member) for member in current.exceptions)
        current = current.__cause__ or current.__context__
    return "\ncaused by:\n".join(parts)

"""What people see when a command fails, whatever it failed with."""

import click
import pytest

from kmsfs.cli.boundary import Failure, RemoteFailureError, describe, redacted_traceback, run
from kmsfs.errors import KeyDisabledError

SECRET = "correct horse battery staple"


def failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("fail", callback=fail)


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (
            KeyDisabledError("key x is disabled", hint="enable it"),
            5,
            "kmsfs: key x is disabled\nhint: enable it\n",
        ),
        (KeyDisabledError("no hint"), 5, "kmsfs: no hint\n"),
        (KeyDisabledError("two\nlines \x1b[31m"), 5, "kmsfs: two\\nlines \\x1b[31m\n"),
        (
            FileNotFoundError(2, "No such file or directory", "/x"),
            1,
            "kmsfs: /x: no such file or directory\n",
        ),
        (OSError(28, "No space left on device"), 1, "kmsfs: no space left on device\n"),
        (RemoteFailureError(Failure("from afar", "go there", 33)), 33, "kmsfs: from afar\nhint: go there\n"),
        (
            BaseExceptionGroup("x", [ExceptionGroup("y", [KeyDisabledError("in groups")])]),
            5,
            "kmsfs: in groups\n",
        ),
        (BaseExceptionGroup("x", [KeyboardInterrupt()]), 130, "kmsfs: interrupted\n"),
        (KeyboardInterrupt(), 130, "kmsfs: interrupted\n"),
        (SystemExit(7), 7, ""),
    ],
)
def test_one_line_a_hint_and_a_code(
    error: BaseException, code: int, stderr: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(error), []) == code
    assert capfd.readouterr() == ("", stderr)


def test_an_unexpected_error_shows_neither_traceback_nor_data(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(failing(ValueError(SECRET)), []) == 1
    said = capfd.readouterr().err
    assert said.startswith("kmsfs: unexpected ValueError\nhint: ")
    assert "Traceback" not in said
    assert SECRET not in said


def test_debug_shows_frames_but_no_data(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSFS_DEBUG", "1")
    assert run(failing(ValueError(SECRET)), []) == 1
    said = capfd.readouterr().err
    assert "in fail" in said
    assert SECRET not in said


def test_a_traceback_tells_the_causes() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise KeyDisabledError("key x is disabled") from error
    except KeyDisabledError as error:
        told = redacted_traceback(error)
    assert "KeyDisabledError: key x is disabled" in told
    assert "caused by" in told
    assert "KeyError" in told
    assert SECRET not in told


def test_clicks_advice_becomes_the_hint() -> None:
    failure = describe(click.NoSuchOption("--jsn", possibilities=["--json"]))
    assert failure == Failure("no such option '--jsn'", "did you mean '--json'? see 'kmsfs --help'", 2)

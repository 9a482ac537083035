"""The lesson's commands, verbatim, with the real ``aws`` command against a real server: docs/lesson.md is run."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from testkit.home import Home
from testkit.lesson import PAGE, Reader, agrees, blocks, settled, steps
from testkit.serving import serving

#: The lesson's commands, to the letter.
LINUX = (Path(__file__).parent / "linux.txt").read_text()
WINDOWS = (Path(__file__).parent / "windows.txt").read_text()
PAGE_TEXT = PAGE.read_text()


def test_the_page_holds_the_lessons_commands_in_their_order() -> None:
    run = [line for step in steps(PAGE_TEXT) for line in step.commands.splitlines()]
    places = [run.index(line) for line in LINUX.splitlines()]
    assert places == sorted(places)
    assert WINDOWS in [text for language, text, _ in blocks(PAGE_TEXT) if language == "bat"]


def test_the_page_is_true(tmp_path: Path) -> None:
    """Everything on the page is run in its order by one reader, and prints what the page says."""
    reader = Reader(tmp_path)
    with ExitStack() as background:
        for step in steps(PAGE_TEXT):
            where = f"docs/lesson.md:{step.line}"
            if step.manner == "server":
                server = background.enter_context(serving(Home(tmp_path / "keystore")))
                printed = "".join(server.said)
                reader.names |= {
                    "ACCESSKEYID": server.access_key_id,
                    "SECRETACCESSKEY": server.secret,
                    "http://127.0.0.1:7600": server.url,
                }
            else:
                done = reader.run(step.commands)
                printed = done.stdout
                assert (done.returncode != 0) == (step.manner == "fails"), (where, printed)
            assert agrees(step.prints, printed), (where, settled(printed))
            if "aws kms create-key" in step.commands:
                reader.take_key_id(printed)
    encrypted = (tmp_path / "topsecret.encrypted").read_bytes()
    assert b"secret message" not in encrypted
    assert re.search(rb"arn:aws:kms:us-east-1:\d{12}:key/", encrypted)


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ('"KeyId": "x"', '"KeyId": "y"'),
        ("", "something"),
        ("1095", "365"),
        ("An error: ...", "Another error: why"),
        ('{"Enabled": true}', '{"Enabled": false}'),
    ],
)
def test_the_comparison_sees_a_difference(said: str, printed: str) -> None:
    assert not agrees(said, printed)


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        (
            "S01TQgEBAEthcm46YXdzOmttczp1cy1lYXN0...",
            "S01TQgEBAEthcm46YXdzOmttczp1cy1lYXN0LTE6MDAwMDAwMDAwMDAwOA==",
        ),
        ("An error: ...", "An error: because"),
        ("on 127.0.0.1:7600", "on 127.0.0.1:34723"),
        ('"CreationDate": 1795487026.790186,', '"CreationDate": 1895487026.1,'),
    ],
)
def test_the_comparison_passes_over_what_differs_each_time(said: str, printed: str) -> None:
    assert agrees(said, printed)

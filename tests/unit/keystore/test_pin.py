"""Where PINs come from; what is refused stands in test_bad_input.py."""

from pathlib import Path

import pytest

from kmsfs.errors import PinUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore.pin import MAX_PIN_SIZE, read_pin

US = Region("us-east-1")


@pytest.fixture(autouse=True)
def _no_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("KMSFS_PIN_US_EAST_1", raising=False)


def pin_file(path: Path, content: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("content", "pin"),
    [
        ("1234", "1234"),
        ("1234\n", "1234"),
        ("1234\r\n", "1234"),
        (" 12 34 \nmore\n", " 12 34 "),
        ("ü" * 3, "ü" * 3),
        ("x" * MAX_PIN_SIZE, "x" * MAX_PIN_SIZE),
    ],
)
def test_the_first_line_of_the_file_is_the_pin(tmp_path: Path, content: str, pin: str) -> None:
    assert read_pin(US, pin_file(tmp_path / "pin", content)) == pin


def test_a_credential_is_taken_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PinUnavailableError, match="no PIN for region us-east-1") as caught:
        read_pin(US, None)
    assert "KMSFS_PIN_US_EAST_1" in caught.value.hint
    monkeypatch.setenv("KMSFS_PIN_US_EAST_1", "of-the-environment")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_pin(US, None) == "of-the-environment"
    pin_file(tmp_path / "kmsfs-pin-us-east-1", "of-the-credential\n")
    assert read_pin(US, None) == "of-the-credential"

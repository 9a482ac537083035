"""``kmsfs mac``: made and verified under HMAC keys, as bytes and in base64."""

import hashlib
import hmac
import json
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from testkit.home import ALIAS, KMSFS, Home, refused

from kmsfs.cli.exitcodes import ExitCode


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """A file of the largest size that is taken."""
    path = tmp_path / "message"
    path.write_bytes(b"\xff" * 4096)
    return path


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_generated_and_verified(home: Home, tmp_path: Path, message: Path, bits: int) -> None:
    home.ok("key", "create", "--spec", f"HMAC_{bits}", "--origin", "EXTERNAL", "--alias", "alias/mac")
    material, raw, text = tmp_path / "material", tmp_path / "raw", tmp_path / "text"
    material.write_bytes(bytes(range(bits // 8)))
    home.ok("key", "import", "alias/mac", material)
    home.ok("mac", "generate", message, "--key", "alias/mac", "--out", raw)
    assert raw.read_bytes() == hmac.digest(material.read_bytes(), message.read_bytes(), f"sha{bits}")
    made = home.json("mac", "generate", message, "--key", "alias/mac")
    assert (b64decode(made["Mac"]), made["MacAlgorithm"]) == (raw.read_bytes(), f"HMAC_SHA_{bits}")
    text.write_text(made["Mac"] + "\n")
    for mac in (raw, text):
        told = home.json("mac", "verify", message, "--key", "alias/mac", "--mac", mac)
        assert told == {"KeyId": made["KeyId"], "MacValid": True, "MacAlgorithm": f"HMAC_SHA_{bits}"}
    assert made["KeyId"] in home.ok("mac", "verify", message, "--key", made["KeyId"], "--mac", raw)


def test_what_is_not_its_mac(home: Home, tmp_path: Path, message: Path) -> None:
    home.ok("key", "create", "--spec", "HMAC_256", "--alias", "alias/mac")
    mac, other = tmp_path / "mac", tmp_path / "other"
    home.ok("mac", "generate", message, "--key", "alias/mac", "--out", mac)
    good = mac.read_bytes()
    for bad in (bytes([good[0] ^ 1]) + good[1:], good[:-1], good + b"x", b"", b"?", bytes(4096)):
        mac.write_bytes(bad)
        refused(home.run("mac", "verify", message, "--key", "alias/mac", "--mac", mac), ExitCode.INVALID_MAC)
    mac.write_bytes(good)
    other.write_bytes(b"other")
    refused(home.run("mac", "verify", other, "--key", "alias/mac", "--mac", mac), ExitCode.INVALID_MAC)
    refused(home.run("mac", "verify", message, "--key", ALIAS, "--mac", mac), ExitCode.KEY_USAGE)
    refused(home.run("mac", "generate", message, "--key", ALIAS), ExitCode.KEY_USAGE)
    refused(home.run("mac", "generate", message, "--key", "alias/none"), ExitCode.NOT_FOUND)


@pytest.mark.parametrize("size", [0, 4097])
def test_a_message_of_a_wrong_size(home: Home, tmp_path: Path, size: int) -> None:
    home.ok("key", "create", "--spec", "HMAC_256", "--alias", "alias/mac")
    message = tmp_path / "message"
    message.write_bytes(bytes(size))
    said = refused(home.run("mac", "generate", message, "--key", "alias/mac"), ExitCode.USAGE)
    assert str(message) in said


def test_a_pipe(home: Home) -> None:
    home.ok("key", "create", "--spec", "HMAC_512", "--alias", "alias/mac")
    command = [KMSFS, "mac", "generate", "--key", "alias/mac"]
    made = subprocess.run([*command, "--json"], env=home.env(), input=b"m", capture_output=True, check=True)
    raw = subprocess.run([*command, "-"], env=home.env(), input=b"m", capture_output=True, check=True).stdout
    assert b64decode(json.loads(made.stdout)["Mac"]) == raw
    assert len(raw) == hashlib.sha512().digest_size

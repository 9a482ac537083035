"""``kmsfs encrypt``, ``decrypt``, ``re-encrypt`` and ``generate-data-key``."""

import json
import stat
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from testkit.home import ALIAS, REGION, Home, refused
from testkit.terminal import on_terminal

SECRET = b"\x00secret\xff\n"
OTHER_REGION = "us-east-1"


def piped(home: Home, *arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run ``kmsfs``, which must succeed, with bytes in and bytes out."""
    done = home.run_piped(*arguments, stdin=stdin)
    assert (done.code, done.stderr) == (0, b""), done
    return done.stdout


def refusal(home: Home, *arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    done = home.run_piped(*arguments, stdin=stdin)
    said = subprocess.CompletedProcess(arguments, done.code, done.stdout.decode(), done.stderr.decode())
    return done.code, refused(said, done.code)


@pytest.fixture
def blob(home: Home, tmp_path: Path) -> Path:
    """A file with the blob of SECRET under the context a=b."""
    path = tmp_path / "secret.blob"
    path.write_bytes(piped(home, "encrypt", "--key", ALIAS, "--context", "a=b", stdin=SECRET))
    return path


# --- there and back -----------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 4096])
def test_files_there_and_back(home: Home, tmp_path: Path, size: int) -> None:
    clear, sealed, back = tmp_path / "clear", tmp_path / "sealed", tmp_path / "back"
    clear.write_bytes(b"\xff" * size)
    assert piped(home, "encrypt", clear, "--key", ALIAS, "--out", sealed) == b""
    assert piped(home, "decrypt", sealed, "--out", back) == b""
    assert back.read_bytes() == clear.read_bytes()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (sealed, back)} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {"clear", "sealed", "back", "home"}


def test_pipes_there_and_back(home: Home) -> None:
    pairs = ("--context", "app=mail", "--context", "user=a=b", "--context", "empty=")
    sealed = piped(home, "encrypt", "-", "--key", ALIAS, "--region", REGION, *pairs, stdin=SECRET)
    again = [word for pair in reversed(pairs[1::2]) for word in ("--context", pair)]
    assert piped(home, "decrypt", "--key", ALIAS, "--region", REGION, *again, stdin=sealed) == SECRET


def test_base64_there_and_back(home: Home) -> None:
    made = json.loads(piped(home, "encrypt", "--key", ALIAS, "--json", stdin=SECRET))
    arn = home.json("key", "describe", ALIAS)["Arn"]
    assert (made["KeyId"], made["EncryptionAlgorithm"]) == (arn, "SYMMETRIC_DEFAULT")
    lines = b"".join(made["CiphertextBlob"][at : at + 76].encode() + b"\r\n" for at in range(0, 300, 76))
    found = json.loads(piped(home, "decrypt", "--json", stdin=lines))
    assert b64decode(found.pop("Plaintext")) == SECRET
    material = home.json("key", "describe", ALIAS)["CurrentKeyMaterialId"]
    assert found == {"KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "KeyMaterialId": material}


def test_what_went_to_a_file_is_not_printed_as_well(home: Home, tmp_path: Path, blob: Path) -> None:
    found = home.json("decrypt", blob, "--context", "a=b", "--out", tmp_path / "clear")
    assert "Plaintext" not in found
    assert (tmp_path / "clear").read_bytes() == SECRET


# --- re-encrypt ---------------------------------------------------------------------------------
def test_a_blob_moves_to_another_region_and_keeps_its_context(home: Home, blob: Path) -> None:
    home.ok("region", "add", OTHER_REGION)
    target = home.json("key", "create", "--region", OTHER_REGION, "--alias", ALIAS)
    source = home.json("key", "describe", ALIAS, "--region", REGION)
    moved = home.json(
        "re-encrypt",
        blob,
        "--to-key",
        ALIAS,
        "--region",
        OTHER_REGION,
        "--context",
        "a=b",
        "--key",
        source["Arn"],
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (source["Arn"], target["Arn"])
    assert moved["SourceKeyMaterialId"] == source["CurrentKeyMaterialId"]
    assert moved["DestinationKeyMaterialId"] == target["CurrentKeyMaterialId"]
    there = moved["CiphertextBlob"].encode()
    assert piped(home, "decrypt", "--region", OTHER_REGION, "--context", "a=b", stdin=there) == SECRET
    code, said = refusal(home, "decrypt", "--region", REGION, "--context", "a=b", stdin=there)
    assert (code, "another region" in said) == (3, True)


def test_a_blob_is_replaced_under_a_new_context(home: Home, blob: Path) -> None:
    home.ok("key", "rotate", ALIAS)
    arguments = (blob, "--to-key", ALIAS, "--context", "a=b", "--to-context", "c=d", "--out", blob)
    assert refusal(home, "re-encrypt", *arguments)[0] == 4
    piped(home, "re-encrypt", *arguments, "--force")
    assert refusal(home, "decrypt", blob, "--context", "a=b")[0] == 10
    found = home.json("decrypt", blob, "--context", "c=d")
    assert b64decode(found["Plaintext"]) == SECRET
    assert found["KeyMaterialId"] == home.json("key", "describe", ALIAS)["CurrentKeyMaterialId"]


# --- data keys ----------------------------------------------------------------------------------
def test_a_data_key_clear_and_wrapped(home: Home, tmp_path: Path) -> None:
    wrapped, clear = tmp_path / "wrapped", tmp_path / "clear"
    options = ("--key", ALIAS, "--context", "a=b")
    printed = piped(home, "generate-data-key", *options, "--out", wrapped)
    assert (len(printed), piped(home, "decrypt", wrapped, "--context", "a=b")) == (32, printed)
    printed = piped(home, "generate-data-key", *options, "--plaintext-out", clear, "--bytes", "1024")
    assert piped(home, "decrypt", "--context", "a=b", stdin=printed) == clear.read_bytes()
    assert len(clear.read_bytes()) == 1024
    assert stat.S_IMODE(clear.stat().st_mode) == 0o600
    printed = piped(
        home, "generate-data-key", *options, "--out", wrapped, "--plaintext-out", clear, "--force"
    )
    assert printed == b""
    assert piped(home, "decrypt", wrapped, "--context", "a=b") == clear.read_bytes()
    made = home.json("generate-data-key", *options)
    assert piped(home, "decrypt", "--context", "a=b", stdin=made["CiphertextBlob"].encode()) == b64decode(
        made["Plaintext"]
    )
    assert set(made) == {"Plaintext", "CiphertextBlob", "KeyId", "KeyMaterialId"}


def test_a_data_key_only_wrapped(home: Home) -> None:
    wrapped = piped(home, "generate-data-key", "--key", ALIAS, "--without-plaintext")
    assert len(piped(home, "decrypt", stdin=wrapped)) == 32
    made = home.json("generate-data-key", "--key", ALIAS, "--without-plaintext")
    assert set(made) == {"CiphertextBlob", "KeyId", "KeyMaterialId"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "mixed on stdout"),
        (["--plaintext-out", "x", "--without-plaintext"], "contradicts"),
        (["--plaintext-out", "x", "--out", "./x"], "two outputs"),
        (["--json", "--bytes", "0"], "1 to 1024"),
        (["--json", "--bytes", "1025"], "1 to 1024"),
    ],
)
def test_what_data_keys_refuse(home: Home, arguments: list[str], said: str) -> None:
    code, error = refusal(home, "generate-data-key", "--key", ALIAS, *arguments)
    assert (code, said in error) == (2, True), error
    assert home.json("audit", "show", "--action", "GenerateDataKey")["Records"] == []


# --- refusals -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stdin", "code", "said"),
    [
        (b"", 10, "stdin is empty"),
        (b"nonsense", 10, "not a ciphertext blob"),
        (b64encode(b"nonsense"), 10, "not a ciphertext blob"),
        (b"KMSB" + b"x" * 8000, 10, "not a ciphertext blob"),
        (b"A" * 100_000, 10, "not a ciphertext blob"),
        (b"KMSB", 10, "4 bytes"),
    ],
)
def test_what_is_no_blob(home: Home, stdin: bytes, code: int, said: str) -> None:
    assert said in refusal(home, "decrypt", stdin=stdin)[1]
    assert refusal(home, "re-encrypt", "--to-key", ALIAS, stdin=stdin)[0] == code


def test_a_blob_that_is_not_opened(home: Home, blob: Path) -> None:
    second = home.json("key", "create")["Arn"]
    sealed = blob.read_bytes()
    for arguments, stdin, code, said in (
        ((), sealed, 10, "encryption context"),
        (("--context", "a=c"), sealed, 10, "encryption context"),
        (("--context", "a=b", "--context", "c=d"), sealed, 10, "encryption context"),
        (("--context", "a=b"), sealed[:-1], 10, "damaged"),
        (("--context", "a=b"), sealed[:-1] + bytes([sealed[-1] ^ 1]), 10, "damaged"),
        (("--context", "a=b", "--key", second), sealed, 11, home.json("key", "describe", ALIAS)["Arn"]),
        (("--context", "a"), sealed, 2, "NAME=VALUE"),
        (("--context", "a=b", "--context", "a=b"), sealed, 2, "twice"),
        (("--context", "a=b", "--region", "ap-south-1"), sealed, 3, "not configured"),
    ):
        assert (code, True) == (
            (found := refusal(home, "decrypt", *arguments, stdin=stdin))[0],
            said in found[1],
        ), found


@pytest.mark.parametrize(("size", "said"), [(0, "empty"), (4097, "longer than 4096"), (10**6, "data key")])
def test_sizes_past_the_edge(home: Home, size: int, said: str) -> None:
    code, error = refusal(home, "encrypt", "--key", ALIAS, stdin=b"x" * size)
    assert (code, said in error) == (2, True), error


def test_files_that_cannot_be_read(home: Home, tmp_path: Path) -> None:
    for command in (("encrypt", "--key", ALIAS), ("decrypt",)):
        assert refusal(home, *command, tmp_path) == (1, f"kmsfs: {tmp_path}: is a directory\n")
        missing = tmp_path / "missing"
        assert refusal(home, *command, missing) == (1, f"kmsfs: {missing}: no such file or directory\n")


def test_output_files_that_exist_are_left_alone(home: Home, tmp_path: Path, blob: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_bytes(b"mine")
    link.symlink_to(there)
    command = ("decrypt", blob, "--context", "a=b", "--out")
    code, said = refusal(home, *command, there)
    assert (code, "--force" in said) == (4, True)
    for other in (link, tmp_path, Path("/dev/null")):
        code, said = refusal(home, *command, other, "--force")
        assert (code, "not a regular file" in said) == (2, True)
    assert there.read_bytes() == b"mine"
    assert home.json("audit", "show", "--action", "Decrypt")["Records"] == []
    assert refusal(home, *command, tmp_path / "no" / "where")[0] == 1
    piped(home, *command, there, "--force")
    assert there.read_bytes() == SECRET
    assert piped(home, *command, "-") == SECRET


def test_a_disabled_key(home: Home, blob: Path) -> None:
    home.ok("key", "disable", ALIAS)
    assert "kmsfs key enable" in refusal(home, "decrypt", blob, "--context", "a=b")[1]
    assert refusal(home, "encrypt", "--key", ALIAS, stdin=SECRET)[0] == 5


# --- on a terminal ------------------------------------------------------------------------------
def test_a_blob_on_a_terminal_is_base64(home: Home, tmp_path: Path) -> None:
    (tmp_path / "clear").write_text("größe\tx\n")
    code, shown = on_terminal(home, "encrypt", tmp_path / "clear", "--key", ALIAS)
    assert code == 0
    assert piped(home, "decrypt", stdin=shown.encode()) == (tmp_path / "clear").read_bytes()
    (tmp_path / "blob").write_text(shown)
    assert on_terminal(home, "decrypt", tmp_path / "blob") == (0, "größe\tx\n")


@pytest.mark.parametrize("content", [SECRET, b"\x1b[2J", "\u202e".encode()])
def test_a_terminal_is_shown_text_only(home: Home, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blob").write_bytes(piped(home, "encrypt", "--key", ALIAS, stdin=content))
    code, shown = on_terminal(home, "decrypt", tmp_path / "blob")
    assert (code, "\x1b" in shown, "hint: use --out FILE" in shown) == (2, False, True)
    assert json.loads(on_terminal(home, "decrypt", tmp_path / "blob", "--json")[1])["Plaintext"] == b64encode(
        content
    ).decode("ascii")


def test_a_data_key_on_a_terminal(home: Home) -> None:
    code, shown = on_terminal(home, "generate-data-key", "--key", ALIAS)
    assert code == 0
    fields = dict(line.rsplit(maxsplit=1) for line in shown.splitlines())
    assert piped(home, "decrypt", stdin=fields["ciphertext blob"].encode()) == b64decode(fields["plaintext"])


def test_a_terminal_as_input_must_be_asked_for(home: Home) -> None:
    code, shown = on_terminal(home, "encrypt", "--key", ALIAS)
    assert (code, "no FILE is named" in shown) == (2, True)

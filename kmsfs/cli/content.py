"""What the commands that use keys take in and give out: plaintext, data keys, ciphertext blobs.

They come from a file or from stdin, never from the command line, which every user of the machine can read. They go
to files or to stdout as they are; to a terminal as text that it can show, or as base64.
"""

import sys
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import click

from kmsfs.cli.options import Decorator
from kmsfs.cli.output_files import write_files
from kmsfs.cli.terminal import print_fields, print_json
from kmsfs.errors import InvalidCiphertextError, UsageError
from kmsfs.format.blob import MAGIC, MAX_BLOB_SIZE, MAX_PLAINTEXT_SIZE

ALGORITHM: Final = "SYMMETRIC_DEFAULT"  # as AWS calls the algorithm of its symmetric keys
_STDIO: Final = Path("-")
_FILE: Final = click.Path(path_type=Path, allow_dash=True)
_LABELS: Final = {"Plaintext": "plaintext", "CiphertextBlob": "ciphertext blob"}
_MAX_BASE64_SIZE: Final = 2 * MAX_BLOB_SIZE  # a third more, and any line breaks


# --- options ------------------------------------------------------------------------------------
def file_argument() -> Decorator:
    """The positional FILE: the parameter ``file``, None when it is left out."""
    return click.argument("file", metavar="[FILE]", type=_FILE, required=False)


def context_option(name: str = "--context", text: str = "A pair of the encryption context.") -> Decorator:
    """``--context NAME=VALUE``, any number of times: a mapping."""
    return click.option(
        name, metavar="NAME=VALUE", multiple=True, callback=_context, help=f"{text} May be repeated."
    )


def out_option(name: str = "--out", text: str = "Write to this file, for its owner alone.") -> Decorator:
    """``--out FILE``: a path, None for stdout."""
    return click.option(name, metavar="FILE", type=_FILE, callback=_out, help=text)


def force_option() -> Decorator:
    """``--force``: replace output files that exist."""
    return click.option("--force", is_flag=True, help="Replace an output file that exists.")


def _context(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(
                f"{parameter.opts[0]} {text} has no value", hint="write NAME=VALUE; the value may be empty"
            )
        if name in pairs:
            raise UsageError(f"{parameter.opts[0]} names {name} twice", hint="a name has one value")
        pairs[name] = value
    return pairs


def _out(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    return None if value == _STDIO else value


# --- in -----------------------------------------------------------------------------------------
def read_plaintext(file: Path | None) -> bytes:
    """Return what is to be encrypted: 1 to 4096 bytes of a file or of stdin."""
    return _read_within(
        file,
        empty="there is nothing to encrypt",
        long="encrypt it under a data key (kmsfs generate-data-key), or keep it in a tree (kmsfs init)",
    )


def read_message(file: Path | None) -> bytes:
    """Return what a MAC is made of: 1 to 4096 bytes of a file or of stdin."""
    return _read_within(file, empty="there is no message", long="make the MAC of its SHA-256 instead")


def read_mac(file: Path, size: int) -> bytes:
    """Return the MAC in a file, which has ``size`` bytes there or is in base64."""
    content, _ = _read(file, _MAX_BASE64_SIZE)
    return content if len(content) == size else _from_base64(content)


def read_blob(file: Path | None) -> bytes:
    """Return the ciphertext blob in a file or on stdin; base64 of one is taken as well."""
    content, name = _read(file, _MAX_BASE64_SIZE)
    if not content:
        raise InvalidCiphertextError(
            f"{name} is empty", hint="the command that should have written the blob may have failed"
        )
    blob = content if content.startswith(MAGIC) else _from_base64(content)
    if not blob.startswith(MAGIC) or len(blob) > MAX_BLOB_SIZE:
        raise InvalidCiphertextError(
            f"{name} is not a ciphertext blob", hint="blobs are what kmsfs encrypt and generate-data-key make"
        )
    return blob


def _read_within(file: Path | None, *, empty: str, long: str) -> bytes:
    content, name = _read(file, MAX_PLAINTEXT_SIZE)
    if not content:
        raise UsageError(f"{name} is empty", hint=empty)
    if len(content) > MAX_PLAINTEXT_SIZE:
        raise UsageError(f"{name} is longer than {MAX_PLAINTEXT_SIZE} bytes", hint=long)
    return content


def _from_base64(content: bytes) -> bytes:
    try:
        return b64decode(b"".join(content.split()), validate=True)
    except Base64Error:
        return b""


def _read(file: Path | None, limit: int) -> tuple[bytes, str]:
    """Return at most ``limit`` + 1 bytes, and how a person calls their source."""
    if file is not None and file != _STDIO:
        with file.open("rb") as opened:
            return _read_up_to(opened, limit + 1), str(file)
    if file is None and sys.stdin.isatty():
        raise UsageError("no FILE is named and nothing is piped in", hint="FILE - reads what is typed")
    return _read_up_to(sys.stdin.buffer, limit + 1), "stdin"


def _read_up_to(stream: BinaryIO, count: int) -> bytes:
    content = b""
    while len(content) < count and (more := stream.read(count - len(content))):
        content += more
    return content


# --- out ----------------------------------------------------------------------------------------
def deliver(
    contents: Mapping[str, bytes],
    about: Mapping[str, str],
    paths: Mapping[str, Path | None],
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Write each content that has a path to it, and the others to stdout: they are named as AWS does."""
    files = {path: contents[name] for name, path in paths.items() if path is not None}
    rest = {name: content for name, content in contents.items() if paths.get(name) is None}
    write_files(files, force=force)
    if as_json:
        print_json({**_encoded(rest), **about})
    elif not sys.stdout.isatty():
        sys.stdout.buffer.write(b"".join(rest.values()))
    elif len(rest) == 1:
        print(*_encoded(rest).values())
    else:
        print_fields({_LABELS[name]: text for name, text in _encoded(rest).items()})


def _encoded(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: b64encode(content).decode("ascii") for name, content in contents.items()}


def show_text(content: bytes) -> None:
    """Print decrypted content on a terminal, if it is text that cannot drive the terminal."""
    text = content.decode("utf-8", "replace")
    if "\N{REPLACEMENT CHARACTER}" in text or not text.translate({9: " ", 10: " "}).isprintable():
        raise UsageError(
            "the plaintext is not text that a terminal can show", hint="use --out FILE, a pipe, or --json"
        )
    sys.stdout.buffer.write(content.removesuffix(b"\n") + b"\n")

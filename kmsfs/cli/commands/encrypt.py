"""``kmsfs encrypt``: up to 4096 bytes under a key."""

from collections.abc import Mapping
from pathlib import Path

import click

from kmsfs.cli.content import (
    ALGORITHM,
    context_option,
    deliver,
    file_argument,
    force_option,
    out_option,
    read_plaintext,
)
from kmsfs.cli.hardening import harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.output_files import check_outputs


@click.command("encrypt", context_settings=HELP_NAMES)
@file_argument()
@click.option("--key", metavar="KEY", required=True, help="Key ARN, alias ARN, alias/NAME or key id.")
@region_option()
@context_option()
@out_option()
@force_option()
@json_option()
def command(
    file: Path | None,
    key: str,
    region: str | None,
    context: Mapping[str, str],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encrypt up to 4096 bytes under a key.

    Takes FILE or stdin, and gives a ciphertext blob, which names its key. Decrypting it takes
    the same encryption context. The context is no secret: the audit log shows it.

    \b
    Example:
      kmsfs encrypt password.txt --key alias/files --context app=mail --out password.blob
      pwgen 30 1 | kmsfs encrypt --key alias/files > password.blob
    """
    harden_process()
    check_outputs(out, force=force)
    plaintext = read_plaintext(file)
    with open_keystore() as keystore:
        made = keystore.encrypt(key, plaintext, context, region=region)
    deliver(
        {"CiphertextBlob": made.blob},
        {"KeyId": made.key_arn, "EncryptionAlgorithm": ALGORITHM},
        {"CiphertextBlob": out},
        force=force,
        as_json=as_json,
    )

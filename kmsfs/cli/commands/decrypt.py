"""``kmsfs decrypt``: what a ciphertext blob holds."""

import sys
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
    read_blob,
    show_text,
)
from kmsfs.cli.hardening import harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.output_files import check_outputs


@click.command("decrypt", context_settings=HELP_NAMES)
@file_argument()
@click.option("--key", metavar="KEY", help="Refuse a blob that is under any other key.")
@region_option("Open it with the keys of this region only; also the region of --key.")
@context_option(text="A pair of the encryption context that the blob was made with.")
@out_option()
@force_option()
@json_option()
def command(
    file: Path | None,
    key: str | None,
    region: str | None,
    context: Mapping[str, str],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Decrypt a ciphertext blob.

    Takes FILE or stdin, as bytes or in base64. The blob names its key.

    \b
    Example:
      kmsfs decrypt password.blob --context app=mail
      kmsfs decrypt password.blob --context app=mail --out password.txt
    """
    harden_process()
    check_outputs(out, force=force)
    blob = read_blob(file)
    with open_keystore() as keystore:
        found = keystore.decrypt(blob, context, ref=key, region=region)
    if out is None and not as_json and sys.stdout.isatty():
        show_text(found.plaintext)
        return
    deliver(
        {"Plaintext": found.plaintext},
        {
            "KeyId": found.key_arn,
            "EncryptionAlgorithm": ALGORITHM,
            "KeyMaterialId": found.material_id.hex(),
        },
        {"Plaintext": out},
        force=force,
        as_json=as_json,
    )

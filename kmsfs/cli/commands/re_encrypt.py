"""``kmsfs re-encrypt``: a ciphertext blob for another key, without showing what it holds."""

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
)
from kmsfs.cli.hardening import harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.output_files import check_outputs


@click.command("re-encrypt", context_settings=HELP_NAMES)
@file_argument()
@click.option("--to-key", metavar="KEY", required=True, help="The key that the new blob is under.")
@region_option("Region of --to-key; may be left out when one region is configured.")
@click.option("--key", metavar="KEY", help="Refuse a blob that is under any other key.")
@context_option(text="A pair of the encryption context that the blob was made with.")
@context_option("--to-context", "A pair of the new blob's encryption context; default: the same context.")
@out_option()
@force_option()
@json_option()
def command(
    file: Path | None,
    to_key: str,
    region: str | None,
    key: str | None,
    context: Mapping[str, str],
    to_context: Mapping[str, str],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encrypt a blob's content under another key.

    Takes FILE or stdin, as bytes or in base64, and gives a new blob. The content is not shown.

    \b
    Example:
      kmsfs re-encrypt password.blob --to-key alias/new --region us-east-1 --out new.blob
      kmsfs re-encrypt password.blob --to-key alias/files --out password.blob --force
    """
    harden_process()
    check_outputs(out, force=force)
    blob = read_blob(file)
    with open_keystore() as keystore:
        moved = keystore.re_encrypt(
            blob, context, to_key, to_context or context, region=region, source_ref=key
        )
    deliver(
        {"CiphertextBlob": moved.blob},
        {
            "SourceKeyId": moved.source_key_arn,
            "KeyId": moved.key_arn,
            "SourceEncryptionAlgorithm": ALGORITHM,
            "DestinationEncryptionAlgorithm": ALGORITHM,
            "SourceKeyMaterialId": moved.source_material_id.hex(),
            "DestinationKeyMaterialId": moved.material_id.hex(),
        },
        {"CiphertextBlob": out},
        force=force,
        as_json=as_json,
    )

"""``kmsfs generate-data-key``: a key for data of one's own, clear and wrapped."""

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from kmsfs.cli.content import context_option, deliver, force_option, out_option
from kmsfs.cli.hardening import harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.output_files import check_outputs
from kmsfs.errors import UsageError


@click.command("generate-data-key", context_settings=HELP_NAMES)
@click.option("--key", metavar="KEY", required=True, help="The key that wraps the data key.")
@region_option()
@click.option(
    "--bytes", "size", metavar="N", type=int, default=32, help="Size of the data key, 1 to 1024; default 32."
)
@context_option()
@out_option(text="Write the wrapped data key to this file, for its owner alone.")
@out_option("--plaintext-out", "Write the clear data key to this file, for its owner alone.")
@click.option("--without-plaintext", is_flag=True, help="Give the wrapped data key only.")
@force_option()
@json_option()
def command(
    key: str,
    region: str | None,
    size: int,
    context: Mapping[str, str],
    out: Path | None,
    plaintext_out: Path | None,
    without_plaintext: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a data key, clear and wrapped.

    Encrypt with the clear one and forget it; keep the wrapped one beside the data. 'kmsfs decrypt'
    makes it clear again. What no file is named for goes to stdout.

    \b
    Example:
      kmsfs generate-data-key --key alias/files --out data.key.blob > data.key
      kmsfs generate-data-key --key alias/files --context app=mail --json
    """
    harden_process()
    if without_plaintext and plaintext_out is not None:
        raise UsageError("--plaintext-out contradicts --without-plaintext", hint="leave one of them out")
    if not (out or plaintext_out or without_plaintext or as_json or sys.stdout.isatty()):
        raise UsageError(
            "the data key and its wrapped copy would be mixed on stdout",
            hint="name a file for one of them: --out FILE or --plaintext-out FILE; or use --json",
        )
    check_outputs(out, plaintext_out, force=force)
    with open_keystore() as keystore:
        made = keystore.generate_data_key(
            key, context, region=region, length=size, for_use=not without_plaintext
        )
    clear = {} if without_plaintext else {"Plaintext": made.plaintext}
    deliver(
        {**clear, "CiphertextBlob": made.blob},
        {"KeyId": made.key_arn, "KeyMaterialId": made.material_id.hex()},
        {"Plaintext": plaintext_out, "CiphertextBlob": out},
        force=force,
        as_json=as_json,
    )

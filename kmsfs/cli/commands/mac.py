"""``kmsfs mac``: MACs under HMAC keys."""

from pathlib import Path

import click

from kmsfs.cli.content import (
    deliver,
    file_argument,
    force_option,
    out_option,
    read_mac,
    read_message,
)
from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.output_files import check_outputs
from kmsfs.cli.terminal import print_json, print_line

command = help_group(
    "mac",
    """Make and verify MACs under HMAC keys.

    \b
    Example:
      kmsfs key create --spec HMAC_256 --alias alias/tokens
      kmsfs mac generate token.txt --key alias/tokens --out token.mac
      kmsfs mac verify token.txt --key alias/tokens --mac token.mac
    """,
)

_key_option = click.option(
    "--key", metavar="KEY", required=True, help="Key ARN, alias ARN, alias/NAME or key id of an HMAC key."
)


@command.command(context_settings=HELP_NAMES)
@file_argument()
@_key_option
@region_option()
@out_option()
@force_option()
@json_option()
def generate(
    file: Path | None, key: str, region: str | None, out: Path | None, force: bool, as_json: bool
) -> None:
    """Make the MAC of up to 4096 bytes.

    Takes FILE or stdin. The algorithm is that of the key.

    \b
    Example:
      kmsfs mac generate token.txt --key alias/tokens --out token.mac
    """
    from kmsfs.keystore.specs import mac_algorithm

    check_outputs(out, force=force)
    message = read_message(file)
    with open_keystore() as keystore:
        found = keystore.resolve(key, region=region)
        algorithm = mac_algorithm(found.spec)
        mac = keystore.generate_mac(key, message, algorithm, region=region)
    deliver(
        {"Mac": mac},
        {"MacAlgorithm": algorithm, "KeyId": found.arn},
        {"Mac": out},
        force=force,
        as_json=as_json,
    )


@command.command(context_settings=HELP_NAMES)
@file_argument()
@click.option(
    "--mac",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="File with the MAC, as bytes or in base64.",
)
@_key_option
@region_option()
@json_option()
def verify(file: Path | None, mac: Path, key: str, region: str | None, as_json: bool) -> None:
    """Verify a MAC.

    Takes the message as FILE or from stdin. Ends with the exit code invalid-mac if the MAC is another one.

    \b
    Example:
      kmsfs mac verify token.txt --key alias/tokens --mac token.mac
    """
    from kmsfs.keystore.specs import SPECS, mac_algorithm

    message = read_message(file)
    with open_keystore() as keystore:
        found = keystore.resolve(key, region=region)
        algorithm = mac_algorithm(found.spec)
        value = read_mac(mac, SPECS[found.spec].size)  # the MACs of a key are as long as its material
        keystore.verify_mac(key, message, algorithm, value, region=region)
    if as_json:
        print_json({"KeyId": found.arn, "MacValid": True, "MacAlgorithm": algorithm})
    else:
        print_line(f"the MAC is that of the message under {found.arn}")

"""``kmsfs credential``: access keys for clients of ``kmsfs serve``."""

from pathlib import Path

import click

from kmsfs.cli.hardening import harden_process
from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.policies import policy_option, read_policy
from kmsfs.cli.terminal import local_time, print_fields, print_json, print_line, print_table
from kmsfs.errors import UsageError
from kmsfs.keystore.arn import ROOT

command = help_group(
    "credential",
    """Make access keys for clients of the server.

    \b
    Example:
      kmsfs credential create alice
      kmsfs credential list
    """,
)


@command.command(context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@policy_option()
@json_option()
def create(name: str, file: Path | None, as_json: bool) -> None:
    """Make an access key of a user, who is made if need be, or of the root; its secret is shown this once.

    \b
    Example:
      kmsfs credential create alice --policy may-use-keys.json
      kmsfs credential create root --json
    """
    harden_process()
    document = None if file is None else read_policy(file)
    if document is not None and name == ROOT:
        raise UsageError("the account's root has no identity policies", hint="leave out --policy")
    with open_keystore() as keystore:
        if name != ROOT:
            keystore.principals.create(name)
        if document is not None:
            keystore.principals.put_policy(name, document)
        made = keystore.credentials.create(name)
    if as_json:
        print_json(made.to_aws())
    else:
        print_fields({"access key id": made.access_key_id, "secret access key": made.secret})


@command.command("list", context_settings=HELP_NAMES)
@json_option()
def list_(as_json: bool) -> None:
    """List access keys, without their secrets.

    \b
    Example:
      kmsfs credential list --json
    """
    with open_keystore() as keystore:
        found = keystore.credentials.list()
    if as_json:
        print_json({"AccessKeyMetadata": [entry.to_aws() for entry in found]})
        return
    print_table(
        ["ACCESS KEY", "PRINCIPAL", "CREATED"],
        [[entry.access_key_id, entry.principal, local_time(entry.created_at)] for entry in found],
        empty="no access keys; make one with 'kmsfs credential create NAME'",
    )


@command.command(context_settings=HELP_NAMES)
@click.argument("access_key_id", metavar="ACCESS_KEY_ID")
@json_option()
def delete(access_key_id: str, as_json: bool) -> None:
    """Delete an access key.

    \b
    Example:
      kmsfs credential delete AKIAQ3EXAMPLE2345678
    """
    with open_keystore() as keystore:
        keystore.credentials.delete(access_key_id)
    if as_json:
        print_json({})
    else:
        print_line(f"deleted {access_key_id}")

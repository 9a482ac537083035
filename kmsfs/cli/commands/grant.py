"""``kmsfs grant``: let a principal use a key in some ways, without touching its policy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from kmsfs.cli.content import context_option
from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option
from kmsfs.cli.policies import named_principal
from kmsfs.cli.terminal import local_time, print_fields, print_json, print_line, print_table

if TYPE_CHECKING:
    from kmsfs.keystore.model import GrantEntry

command = help_group(
    "grant",
    """Let principals use a key in some ways.

    \b
    Example:
      kmsfs grant create alias/files --grantee alice --operation Decrypt
      kmsfs grant list alias/files
    """,
)


@command.command(context_settings=HELP_NAMES)
@key_argument()
@click.option("--grantee", metavar="NAME", required=True, help="User, root, or a principal's ARN.")
@click.option(
    "--operation",
    "operations",
    metavar="NAME",
    multiple=True,
    required=True,
    help="Such as Decrypt or GenerateDataKey. May be repeated.",
)
@click.option("--retiring", metavar="NAME", help="Who may retire the grant besides the root.")
@context_option("--context-equals", "The encryption context must be these pairs alone.")
@context_option("--context-subset", "The encryption context must have this pair.")
@click.option("--name", metavar="NAME", help="Making the same grant of that name again changes nothing.")
@region_option()
@json_option()
def create(
    key: str,
    grantee: str,
    operations: tuple[str, ...],
    retiring: str | None,
    context_equals: Mapping[str, str],
    context_subset: Mapping[str, str],
    name: str | None,
    region: str | None,
    as_json: bool,
) -> None:
    """Grant a principal the use of a key.

    \b
    Example:
      kmsfs grant create alias/files --grantee alice --operation Decrypt --context-subset app=mail
    """
    from kmsfs.keystore.access import NewGrant
    from kmsfs.keystore.policy.grants import Constraints

    with open_keystore() as keystore:
        found = keystore.describe_key(key, region=region)
        wanted = NewGrant(
            named_principal(found.account, grantee),
            frozenset(operations),
            Constraints(context_equals or None, context_subset or None),
            None if retiring is None else named_principal(found.account, retiring),
            name,
        )
        entry, token = keystore.create_grant(found.arn, wanted)
    if as_json:
        print_json({"GrantId": entry.grant.grant_id, "GrantToken": token})
    else:
        print_fields({"grant id": entry.grant.grant_id, "grantee": entry.grant.grantee})


@command.command("list", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def list_(key: str, region: str | None, as_json: bool) -> None:
    """List the grants on a key.

    \b
    Example:
      kmsfs grant list alias/files
    """
    with open_keystore() as keystore:
        found = keystore.grants(key, region=region)
    if as_json:
        print_json({"Grants": [entry.to_aws() for entry in found]})
        return
    print_table(
        ["GRANT ID", "GRANTEE", "OPERATIONS", "CONTEXT", "CREATED"],
        [_row(entry) for entry in found],
        empty="no grants; make one with 'kmsfs grant create KEY'",
    )


def _row(entry: "GrantEntry") -> list[str]:
    constraints = entry.grant.constraints
    context = [
        f"{what} {name}={value}"
        for what, pairs in (("is", constraints.equals), ("has", constraints.subset))
        for name, value in (pairs or {}).items()
    ]
    return [
        entry.grant.grant_id,
        entry.grant.grantee,
        " ".join(sorted(entry.grant.operations)),
        ", ".join(context),
        local_time(entry.created_at),
    ]


@command.command(context_settings=HELP_NAMES)
@key_argument()
@click.argument("grant_id", metavar="GRANT_ID")
@region_option()
def retire(key: str, grant_id: str, region: str | None) -> None:
    """Remove a grant that is no longer needed.

    \b
    Example:
      kmsfs grant retire alias/files 6f1c...
    """
    with open_keystore() as keystore:
        keystore.retire_grant(keystore.grant(key, grant_id, region=region))
    print_line(f"retired {grant_id}")


@command.command(context_settings=HELP_NAMES)
@key_argument()
@click.argument("grant_id", metavar="GRANT_ID")
@region_option()
def revoke(key: str, grant_id: str, region: str | None) -> None:
    """Take back what a grant allows.

    \b
    Example:
      kmsfs grant revoke alias/files 6f1c...
    """
    with open_keystore() as keystore:
        keystore.revoke_grant(key, grant_id, region=region)
    print_line(f"revoked {grant_id}")

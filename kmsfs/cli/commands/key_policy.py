"""``kmsfs key policy``: whom a key trusts."""

from pathlib import Path

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option
from kmsfs.cli.policies import DEFAULT_POLICY, policy_argument, read_policy
from kmsfs.cli.terminal import print_json, print_line

policy = help_group(
    "policy",
    """Show and replace key policies: whom a key trusts.

    \b
    Example:
      kmsfs key policy get alias/files > policy.json
      kmsfs key policy put alias/files policy.json
    """,
)


@policy.command("get", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def get(key: str, region: str | None, as_json: bool) -> None:
    """Show a key's policy.

    \b
    Example:
      kmsfs key policy get alias/files
    """
    with open_keystore() as keystore:
        document = keystore.key_policy(key, region=region)
    if as_json:
        print_json({"Policy": document, "PolicyName": DEFAULT_POLICY})
    else:
        click.echo(document)


@policy.command("put", context_settings=HELP_NAMES)
@key_argument()
@policy_argument()
@click.option(
    "--bypass-lockout-check", is_flag=True, help="Even if the root could not change the policy again."
)
@click.option("--as-owner", is_flag=True, help="As the owner of the token, whatever the present policy says.")
@region_option()
def put(key: str, file: Path, bypass_lockout_check: bool, as_owner: bool, region: str | None) -> None:
    """Replace a key's policy. FILE is JSON as AWS has it; - reads stdin.

    \b
    Example:
      kmsfs key policy put alias/files policy.json
    """
    document = read_policy(file)
    with open_keystore() as keystore:
        keystore.put_key_policy(
            key,
            document,
            bypass_lockout_check=bypass_lockout_check,
            as_owner=as_owner,
            region=region,
        )
    print_line(f"the policy of {key} is put")

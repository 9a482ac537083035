"""``kmsfs user``: the account's users, and the policies that say what they may do."""

from pathlib import Path

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.policies import policy_argument, policy_name_option, policy_option, read_policy
from kmsfs.cli.terminal import local_time, print_fields, print_json, print_line, print_table
from kmsfs.errors import PrincipalNotFoundError

command = help_group(
    "user",
    """Make users and say what they may do.

    A user acts with an access key ('kmsfs credential create NAME') or through a mount
    ('kmsfs mount -o principal=NAME').

    \b
    Example:
      kmsfs user create alice --policy may-use-keys.json
      kmsfs user list
    """,
)
policy = help_group(
    "policy",
    """Say what a user may do, with identity policies.

    \b
    Example:
      kmsfs user policy put alice may-use-keys.json
      kmsfs user policy get alice
    """,
)


@command.command(context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@policy_option()
@json_option()
def create(name: str, file: Path | None, as_json: bool) -> None:
    """Make a user, who may do nothing until a policy or a grant says so.

    \b
    Example:
      kmsfs user create alice --policy may-use-keys.json
    """
    document = None if file is None else read_policy(file)
    with open_keystore() as keystore:
        made = keystore.principals.create(name)
        if document is not None:
            keystore.principals.put_policy(name, document)
    if as_json:
        print_json({"User": made.to_aws()})
    else:
        print_fields({"user": made.name, "arn": made.arn, "created": local_time(made.created_at)})


@command.command("list", context_settings=HELP_NAMES)
@json_option()
def list_(as_json: bool) -> None:
    """List users. The account's root is not among them.

    \b
    Example:
      kmsfs user list
    """
    with open_keystore() as keystore:
        found = keystore.principals.list()
    if as_json:
        print_json({"Users": [user.to_aws() for user in found]})
        return
    print_table(
        ["USER", "ARN", "CREATED"],
        [[user.name, user.arn, local_time(user.created_at)] for user in found],
        empty="no users; make one with 'kmsfs user create NAME'",
    )


@command.command(context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
def delete(name: str) -> None:
    """Delete a user with their access keys and policies.

    Key policies and grants that name the user stay: a new user of that name would have what they give.

    \b
    Example:
      kmsfs user delete alice
    """
    with open_keystore() as keystore:
        keystore.principals.delete(name)
    print_line(f"deleted {name}")


@policy.command(context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@policy_argument()
@policy_name_option()
def put(name: str, file: Path, policy_name: str) -> None:
    """Attach a policy to a user, or replace it. FILE is JSON as AWS has it; - reads stdin.

    \b
    Example:
      kmsfs user policy put alice may-use-keys.json
    """
    document = read_policy(file)
    with open_keystore() as keystore:
        keystore.principals.put_policy(name, document, policy=policy_name)
    print_line(f"policy {policy_name} of {name} is put")


@policy.command(context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@policy_name_option()
@json_option()
def get(name: str, policy_name: str, as_json: bool) -> None:
    """Show a policy of a user.

    \b
    Example:
      kmsfs user policy get alice
    """
    with open_keystore() as keystore:
        document = keystore.principals.policies(name).get(policy_name)
    if document is None:
        raise PrincipalNotFoundError(
            f"user {name} has no policy {policy_name}", hint="kmsfs user policy list shows them"
        )
    if as_json:
        print_json({"UserName": name, "PolicyName": policy_name, "PolicyDocument": document})
    else:
        click.echo(document)


@policy.command("list", context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@json_option()
def list_policies(name: str, as_json: bool) -> None:
    """List the names of a user's policies.

    \b
    Example:
      kmsfs user policy list alice
    """
    with open_keystore() as keystore:
        names = sorted(keystore.principals.policies(name))
    if as_json:
        print_json({"PolicyNames": names})
        return
    print_table(["POLICY"], [[found] for found in names], empty=f"{name} has no policies")


@policy.command("delete", context_settings=HELP_NAMES)
@click.argument("name", metavar="NAME")
@policy_name_option()
def delete_policy(name: str, policy_name: str) -> None:
    """Take a policy from a user.

    \b
    Example:
      kmsfs user policy delete alice
    """
    with open_keystore() as keystore:
        keystore.principals.delete_policy(name, policy=policy_name)
    print_line(f"deleted policy {policy_name} of {name}")


command.add_command(policy)

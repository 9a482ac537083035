"""``kmsfs key``, continued: rotation, deletion, tags and descriptions."""

from typing import TYPE_CHECKING, Any

import click

from kmsfs.cli.commands.key_policy import policy
from kmsfs.cli.home import open_keystore
from kmsfs.cli.key_output import print_key
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option
from kmsfs.cli.terminal import local_time, print_fields, print_json, print_line, print_table
from kmsfs.errors import UsageError

if TYPE_CHECKING:
    from kmsfs.keystore.model import KeyMetadata, Material

rotation = help_group(
    "rotation",
    """Rotate keys by themselves, or no longer.

    \b
    Example:
      kmsfs key rotation on alias/files --period 365
      kmsfs key rotation status alias/files
    """,
)


@click.command(context_settings=HELP_NAMES)
@key_argument()
@click.option("--description", metavar="TEXT", required=True, help="What the key is for from now on.")
@region_option()
@json_option()
def update(key: str, description: str, region: str | None, as_json: bool) -> None:
    """Change a key's description.

    \b
    Example:
      kmsfs key update alias/files --description "project files"
    """
    with open_keystore() as keystore:
        print_key(keystore.update_key_description(key, description, region=region), as_json)


@click.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def rotate(key: str, region: str | None, as_json: bool) -> None:
    """Give a key new material now.

    Its id, ARN and aliases stay, and what is encrypted still decrypts.

    \b
    Example:
      kmsfs key rotate alias/files
    """
    with open_keystore() as keystore:
        rotated = keystore.rotate_key(key, region=region)
    if as_json:
        print_json({"KeyId": rotated.key_id})
        return
    print_key(rotated, False)


@click.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def retire(key: str, region: str | None, as_json: bool) -> None:
    """Destroy a key's old material: all but what it encrypts under now.

    Refused unless 'kmsfs rewrap' has brought every known tree with slots of the key to its current material since the
    last rotation. Nobody knows what 'kmsfs encrypt' and clients of the server encrypted under it, nor trees and backups
    elsewhere: all of that is lost for good.

    \b
    Example:
      kmsfs key rotate alias/files
      kmsfs rewrap ~/tree
      kmsfs key retire alias/files
    """
    with open_keystore() as keystore:
        retired = [material.hex() for material in keystore.retire_key_material(key, region=region)]
    if as_json:
        print_json({"Retired": retired})
        return
    for material in retired:
        print_line(f"retired {material}")
    print_line(_LOST if retired else "nothing to retire")


_LOST = "what was encrypted under it outside the known trees cannot be decrypted any more"


@rotation.command("on", context_settings=HELP_NAMES)
@key_argument()
@click.option("--period", metavar="DAYS", type=int, help="Days between rotations, 90 to 2560; at first 365.")
@region_option()
@json_option()
def on(key: str, period: int | None, region: str | None, as_json: bool) -> None:
    """Rotate a key by itself from now on, or change the period.

    \b
    Example:
      kmsfs key rotation on alias/files --period 180
    """
    with open_keystore() as keystore:
        _print_status(keystore.enable_key_rotation(key, period_days=period, region=region), as_json)


@rotation.command("off", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def off(key: str, region: str | None, as_json: bool) -> None:
    """Rotate a key no longer by itself.

    \b
    Example:
      kmsfs key rotation off alias/files
    """
    with open_keystore() as keystore:
        _print_status(keystore.disable_key_rotation(key, region=region), as_json)


@rotation.command("status", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def status(key: str, region: str | None, as_json: bool) -> None:
    """Show whether and when a key is rotated.

    \b
    Example:
      kmsfs key rotation status alias/files
    """
    with open_keystore() as keystore:
        _print_status(keystore.describe_key(key, region=region), as_json)


@rotation.command("list", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def list_(key: str, region: str | None, as_json: bool) -> None:
    """List a key's rotations.

    \b
    Example:
      kmsfs key rotation list alias/files
    """
    with open_keystore() as keystore:
        found = keystore.describe_key(key, region=region)
    if as_json:
        print_json({"Rotations": _rotations(found)})
        return
    shown = [m for m in found.materials if m.rotation_type is not None or m.retirement is not None]
    print_table(
        ["DATE", "TYPE", "STATE", "MATERIAL"],
        [
            [local_time(m.created_at), str(m.rotation_type or "first"), _state(found, m), m.material_id.hex()]
            for m in shown
        ],
        empty="never rotated",
    )


def _rotations(key: "KeyMetadata") -> list[dict[str, object]]:
    """AWS's entries, with what it has no word for; of the first material, which no rotation made, once retired."""
    retired = {m.material_id.hex() for m in key.materials if m.retirement is not None}
    return [
        {**entry, "Retired": True} if entry["KeyMaterialId"] in retired else entry
        for entry in key.rotations(with_first=True)
        if "RotationType" in entry or entry["KeyMaterialId"] in retired
    ]


def _state(key: "KeyMetadata", material: "Material") -> str:
    if material.retirement is not None:
        return "retired"
    return "current" if material == key.current_material else "old"


def _print_status(key: "KeyMetadata", as_json: bool) -> None:
    if as_json:
        print_json(key.rotation_status())
        return
    fields = {"arn": key.arn, "rotation": "off"}
    if key.rotates and key.next_rotation_at is not None:
        fields["rotation"] = f"every {key.rotation_period_days} days"
        fields["next"] = local_time(key.next_rotation_at)
    print_fields(fields)


@click.command("schedule-deletion", context_settings=HELP_NAMES)
@key_argument()
@click.option("--days", metavar="N", type=int, default=30, help="Days until then, 7 to 30; default 30.")
@click.option("--force", is_flag=True, help="Even if a known tree would be lost.")
@region_option()
@json_option()
def schedule_deletion(key: str, days: int, force: bool, region: str | None, as_json: bool) -> None:
    """Delete a key when some days are over.

    It cannot be used from now on. What is encrypted under it is lost for good once it is deleted;
    until then, 'kmsfs key cancel-deletion' keeps it.

    \b
    Example:
      kmsfs key schedule-deletion alias/files --days 7
    """
    with open_keystore() as keystore:
        doomed = keystore.schedule_key_deletion(key, days=days, force=force, region=region)
    if as_json:
        answer: dict[str, Any] = {"KeyId": doomed.arn}
        if doomed.deletion_at is not None:
            answer["DeletionDate"] = doomed.deletion_at
        print_json({**answer, "KeyState": doomed.state.value, "PendingWindowInDays": days})
        return
    print_key(doomed, False)


@click.command("cancel-deletion", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def cancel_deletion(key: str, region: str | None, as_json: bool) -> None:
    """Keep a key after all; it is then disabled.

    \b
    Example:
      kmsfs key cancel-deletion alias/files
      kmsfs key enable alias/files
    """
    with open_keystore() as keystore:
        kept = keystore.cancel_key_deletion(key, region=region)
    if as_json:
        print_json({"KeyId": kept.arn})
        return
    print_key(kept, False)


@click.command(context_settings=HELP_NAMES)
@key_argument()
@click.argument("tags", metavar="NAME=VALUE...", nargs=-1, required=True)
@region_option()
def tag(key: str, tags: tuple[str, ...], region: str | None) -> None:
    """Add tags to a key, or change their values.

    \b
    Example:
      kmsfs key tag alias/files team=blue stage=test
    """
    for text in tags:
        if "=" not in text:
            raise UsageError(f"tag {text!r} has no value", hint="write NAME=VALUE; the value may be empty")
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in tags)]
    with open_keystore() as keystore:
        keystore.tag_key(key, pairs, region=region)
    print_line(f"tagged {key}")


@click.command(context_settings=HELP_NAMES)
@key_argument()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@region_option()
def untag(key: str, names: tuple[str, ...], region: str | None) -> None:
    """Take tags from a key.

    \b
    Example:
      kmsfs key untag alias/files stage
    """
    with open_keystore() as keystore:
        keystore.untag_key(key, names, region=region)
    print_line(f"untagged {key}")


@click.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def tags(key: str, region: str | None, as_json: bool) -> None:
    """List a key's tags.

    \b
    Example:
      kmsfs key tags alias/files
    """
    with open_keystore() as keystore:
        found = sorted(keystore.key_tags(key, region=region).items())
    if as_json:
        print_json({"Tags": [{"TagKey": name, "TagValue": value} for name, value in found]})
        return
    print_table(["NAME", "VALUE"], found, empty="no tags")


COMMANDS = (update, rotate, retire, rotation, schedule_deletion, cancel_deletion, tag, untag, tags, policy)

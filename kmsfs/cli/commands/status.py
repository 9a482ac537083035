"""``kmsfs status``: what is mounted, and which regions are configured."""

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.mounts import MountStatus, ask
from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.terminal import print_json, print_line, print_table
from kmsfs.storage.mountinfo import kmsfs_mounts


@click.command("status", context_settings=HELP_NAMES)
@json_option()
def command(as_json: bool) -> None:
    """Show mounts and regions.

    \b
    Example:
      kmsfs status
      kmsfs status --json
    """
    mounts = [ask(entry) for entry in kmsfs_mounts()]
    with open_keystore() as keystore:
        regions = keystore.regions()
    if as_json:
        print_json(
            {
                "mounts": [mount.to_json() for mount in mounts],
                "regions": [region.to_json() for region in regions],
            }
        )
        return
    print_table(
        ["MOUNT POINT", "TREE", "STATE", "PID", "REGION"],
        [_row(mount) for mount in mounts],
        empty="nothing is mounted",
    )
    for mount in mounts:
        for key_arn, reason in mount.details.get("unusable_keys", {}).items():
            print_line(f"{mount.entry.mount_point}: {key_arn} cannot be used: {reason}")
    print_line("")
    print_table(
        ["REGION", "TOKEN", "SUITE"],
        [[region.region, region.token_label, str(int(region.suite))] for region in regions],
        empty="no region is configured",
    )


def _row(mount: MountStatus) -> list[str]:
    access = " (read-only)" if mount.entry.read_only else ""
    return [
        mount.entry.mount_point,
        mount.entry.source,
        f"{mount.state.value}{access}",
        str(mount.details.get("pid", "-")),
        str(mount.details.get("serving_region", "-")),
    ]

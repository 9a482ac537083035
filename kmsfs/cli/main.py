"""The command ``kmsfs``: the list of commands, and nothing that takes time to import."""

import sys
from typing import Final

import click

from kmsfs.cli.boundary import run
from kmsfs.cli.lazy import LazyGroup
from kmsfs.cli.terminal import print_warnings

_COMMANDS: Final = "kmsfs.cli.commands"
TABLE: Final = {
    "region": (f"{_COMMANDS}.region", "Configure regions: one PKCS#11 token each."),
    "key": (f"{_COMMANDS}.key", "Create and manage customer master keys."),
    "alias": (f"{_COMMANDS}.alias", "Give keys names that can be re-pointed."),
    "encrypt": (f"{_COMMANDS}.encrypt", "Encrypt up to 4096 bytes under a key."),
    "decrypt": (f"{_COMMANDS}.decrypt", "Decrypt a ciphertext blob."),
    "re-encrypt": (f"{_COMMANDS}.re_encrypt", "Encrypt a blob's content under another key."),
    "generate-data-key": (f"{_COMMANDS}.generate_data_key", "Make a data key, clear and wrapped."),
    "mac": (f"{_COMMANDS}.mac", "Make and verify MACs under HMAC keys."),
    "init": (f"{_COMMANDS}.init", "Create an encrypted tree."),
    "mount": (f"{_COMMANDS}.mount", "Mount a tree."),
    "unmount": (f"{_COMMANDS}.unmount", "Unmount a tree and wait until all is stored."),
    "rewrap": (f"{_COMMANDS}.rewrap", "Bring every slot of a tree to its key's current material."),
    "migrate": (f"{_COMMANDS}.migrate", "Bring a whole tree under another key."),
    "report": (f"{_COMMANDS}.report", "Make and verify the signed reports of migrations."),
    "replicate": (f"{_COMMANDS}.replicate", "Keep every file of a tree under one more key, or one less."),
    "zone": (f"{_COMMANDS}.zone", "Bind directories of a tree to keys of their own."),
    "info": (f"{_COMMANDS}.info", "Show which keys a file is encrypted under."),
    "status": (f"{_COMMANDS}.status", "Show mounts and regions."),
    "serve": (f"{_COMMANDS}.serve", "Serve the keys to AWS's own clients."),
    "user": (f"{_COMMANDS}.user", "Make users and say what they may do."),
    "credential": (f"{_COMMANDS}.credential", "Make access keys for clients of the server."),
    "grant": (f"{_COMMANDS}.grant", "Let principals use a key in some ways."),
    "audit": (f"{_COMMANDS}.audit", "Show and verify the record of every use of a key."),
    "doctor": (f"{_COMMANDS}.doctor", "Check the installation and name the remedies."),
}

cli = LazyGroup(
    "kmsfs",
    table=TABLE,
    help="""Keep files encrypted under master keys that live in an HSM.

    Every file has its own data key, wrapped by a key of one region's PKCS#11 token.
    KMSFS_HOME names the directory of the configuration (default: ~/.local/share/kmsfs).

    \b
    Example:
      kmsfs region add eu-west-1
      kmsfs key create --alias alias/files
      kmsfs init ~/tree --key alias/files
      kmsfs mount ~/tree ~/clear
    """,
)
click.version_option(package_name="kmsfs", message="%(package)s %(version)s")(cli)


def main() -> None:
    """Run the command line and exit."""
    print_warnings()
    sys.exit(run(cli, sys.argv[1:]))

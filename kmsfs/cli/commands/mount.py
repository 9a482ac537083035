"""``kmsfs mount``: serve a tree, in the background or in the foreground."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli import hardening, logfile
from kmsfs.cli.daemon import ParentLink, start_daemon
from kmsfs.cli.home import make_home, open_keystore
from kmsfs.cli.mount_plan import KNOWN_OPTIONS, MountPlan, parse_options, plan_mount
from kmsfs.cli.options import HELP_NAMES
from kmsfs.cli.terminal import print_line
from kmsfs.errors import AccessDeniedError, KmsfsError

if TYPE_CHECKING:
    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore

_log = logging.getLogger(__name__)


@click.command("mount", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(path_type=Path))
@click.option(
    "-o", "options", metavar="OPTS", multiple=True, help=f"Comma-separated: {', '.join(KNOWN_OPTIONS)}."
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr.")
def command(tree: Path, mountpoint: Path, options: tuple[str, ...], foreground: bool) -> None:
    """Mount a tree.

    Returns when the mount serves. MOUNTPOINT is an empty directory outside the tree.

    \b
    Example:
      kmsfs mount ~/tree ~/clear
      kmsfs mount ~/tree /srv/clear -o ro,allow_other
    """
    plan = plan_mount(tree, mountpoint, parse_options(options))
    home = make_home()  # now: a relative KMSFS_HOME means nothing once the daemon has left this directory
    if foreground:
        os.umask(0)
        logfile.log_to_stderr()
        _serve(home, plan, lambda: print_line(f"mounted {plan.tree} on {plan.mountpoint}"))
        return
    log = logfile.log_path(home, plan.tree, plan.mountpoint)

    def work(link: ParentLink) -> None:
        logfile.log_to_file(log)
        _serve(home, plan, link.ready)

    start_daemon(work, log=log)
    print_line(f"mounted {plan.tree} on {plan.mountpoint}")


def _serve(home: Path, plan: MountPlan, announce: Callable[[], None]) -> None:
    """Serve until unmounted. Threads and the PKCS#11 module start in here, after any fork."""
    hardening.harden_process()
    from kmsfs.fuse.session import MountOptions, serve
    from kmsfs.tree.superblock_file import read_superblock

    def on_ready() -> None:
        hardening.forbid_inspection()
        _log.info("serving as process %d", os.getpid())
        announce()

    chosen = MountOptions(
        read_only="ro" in plan.options,
        allow_other="allow_other" in plan.options,
        noatime="noatime" in plan.options,
        nodev="nodev" in plan.options,
        nosuid="nosuid" in plan.options,
        noexec="noexec" in plan.options,
    )
    with open_keystore(home, via="mount", principal=plan.principal) as keystore:
        block = read_superblock(plan.tree)
        keystore.principals.require(plan.principal)
        if not (chosen.read_only or block.read_only):
            _require_creation(keystore, block)
        keystore.note_tree(block.tree_id, plan.tree, block.key_arns, besides=True)
        serve(keystore, plan.tree, plan.mountpoint, chosen, on_ready)
    _log.info("unmounted, everything is stored")


def _require_creation(keystore: "Keystore", block: "Superblock") -> None:
    """Refuse a principal who may not wrap data keys under the tree's keys. To open files is asked with the tree key."""
    from kmsfs.format.aad import files_context

    for key_arn in block.key_arns:
        action = "GenerateDataKey" if key_arn == block.default_key_arn else "Encrypt"
        try:
            keystore.require_permission(key_arn, action, files_context(block.tree_id))
        except AccessDeniedError:
            raise
        except KmsfsError as error:  # a key that is not there now stops no mount that another slot opens
            _log.info("key %s: %s", key_arn, error)

"""``kmsfs doctor``: look for what will not work, and name the remedy."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Final

import click

from kmsfs.cli import fuse_host
from kmsfs.cli.exitcodes import ExitCode
from kmsfs.cli.hardening import may_lock_memory
from kmsfs.cli.home import home_path, open_keystore
from kmsfs.cli.mounts import MountState, ask
from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.terminal import print_json, print_line
from kmsfs.errors import KmsfsError
from kmsfs.keystore.finding import Finding
from kmsfs.storage.mountinfo import kmsfs_mounts

_LOW_SPACE: Final = 64 << 20  # metadata and log of a busy mount


@click.command("doctor", context_settings=HELP_NAMES)
@json_option()
def command(as_json: bool) -> int:
    """Check the installation and name the remedies.

    \b
    Example:
      kmsfs doctor
    """
    findings = [*_host_findings(), *_home_findings(), *_mount_findings(), *_keystore_findings()]
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print_line(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
            if finding.hint and not finding.ok:
                print_line(f"      remedy: {finding.hint}")
    return ExitCode.DONE if healthy else ExitCode.UNHEALTHY


def _host_findings() -> Iterator[Finding]:
    yield _checked("fuse device", fuse_host.require_device, f"{fuse_host.DEVICE} can be opened")
    yield _checked("fuse helper", fuse_host.require_helper, "mounts can be made by this user")
    yield _checked("fuse library", _load_fuse, "libfuse3 and pyfuse3 load")
    if os.geteuid() != 0:
        permitted = (
            "permitted" if fuse_host.user_allow_other() else "not permitted to users by /etc/fuse.conf"
        )
        yield _fine("allow_other", f"-o allow_other is {permitted}")
    locked = (
        "is locked" if may_lock_memory() else "may be swapped out; raise the memlock limit or encrypt swap"
    )
    yield _fine("memory", f"memory of a mount {locked}")


def _load_fuse() -> None:
    try:
        import kmsfs.fuse.session  # noqa: F401
    except ImportError as error:
        raise KmsfsError(
            f"pyfuse3 does not load: {error}", hint="install libfuse3 and kmsfs again"
        ) from error


def _home_findings() -> Iterator[Finding]:
    home = home_path()
    if not home.is_dir():
        yield Finding("home", False, f"{home} does not exist", "add a region with 'kmsfs region add REGION'")
        return
    free = shutil.disk_usage(home).free
    enough = free >= _LOW_SPACE
    yield Finding(
        "space", enough, f"{free >> 20} MiB are free at {home}", "" if enough else "free some space"
    )


def _mount_findings() -> Iterator[Finding]:
    for entry in kmsfs_mounts():
        state = ask(entry).state
        healthy = state in (MountState.SERVING, MountState.UNKNOWN)
        remedy = "" if healthy else f"kmsfs unmount {entry.mount_point}"
        yield Finding("mount", healthy, f"{entry.mount_point} is {state.value}", remedy)


def _keystore_findings() -> Iterator[Finding]:
    try:
        with open_keystore() as keystore:
            yield from keystore.check()
    except KmsfsError as error:
        yield Finding("keystore", False, str(error), error.hint)


def _checked(name: str, check: Callable[[], None], detail: str) -> Finding:
    try:
        check()
    except KmsfsError as error:
        return Finding(name, False, str(error), error.hint)
    return Finding(name, True, detail)


def _fine(name: str, detail: str) -> Finding:
    return Finding(name, True, detail)

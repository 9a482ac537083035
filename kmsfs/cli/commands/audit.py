"""``kmsfs audit``: what was done with keys, and whether the record of it is whole."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.terminal import print_json, print_table
from kmsfs.errors import AuditBrokenError, RegionNotFoundError

if TYPE_CHECKING:
    from kmsfs.keystore.audit_verify import SegmentFinding
    from kmsfs.keystore.service import Keystore

command = help_group(
    "audit",
    """Show and verify the record of every use of a key.

    \b
    Example:
      kmsfs audit verify
      kmsfs audit show --region eu-west-1 --last 20
    """,
)


@command.command(context_settings=HELP_NAMES)
@region_option("Only the log of this region.")
@json_option()
def verify(region: str | None, as_json: bool) -> None:
    """Check that no record was changed, added, moved or taken away.

    Ends with the exit code audit-broken if one was. Needs the tokens of the regions.

    \b
    Example:
      kmsfs audit verify --region eu-west-1
    """
    with open_keystore() as keystore:
        findings = keystore.verify_audit(region)
    broken = [finding for finding in findings if finding.problem]
    if as_json:
        print_json({"ok": not broken, "segments": [asdict(finding) for finding in findings]})
    else:
        print_table(
            ["REGION", "SEGMENT", "STATE", "RECORDS", "FOUND"],
            [_row(finding) for finding in findings],
            empty="nothing was recorded yet",
        )
    if broken:
        raise AuditBrokenError(
            f"audit log is broken: {len(broken)} of {len(findings)} segments are not as they were written",
            hint="keep the files as they are; docs/operations.md says what each finding means",
        )


@command.command(context_settings=HELP_NAMES)
@region_option("Only the records of this region.")
@click.option("--key", metavar="KEY", help="Only the uses of this key: a key id or key ARN.")
@click.option("--action", metavar="NAME", help="Only this action, for example Decrypt.")
@click.option(
    "--last",
    metavar="COUNT",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many records, counted from the newest.",
)
@json_option()
def show(region: str | None, key: str | None, action: str | None, last: int, as_json: bool) -> None:
    """Show records, oldest first. Needs no HSM, and verifies nothing.

    \b
    Example:
      kmsfs audit show --action Decrypt --last 20
      kmsfs audit show --json --region eu-west-1
    """
    with open_keystore() as keystore:
        found = _chosen(_records(keystore, region), key, action)
        records = sorted(heapq.nlargest(last, found, key=_time), key=_time)
    if as_json:
        print_json({"Records": records})
        return
    print_table(
        ["TIME", "PRINCIPAL", "UID", "VIA", "ACTION", "COUNT", "KEY", "RESULT", "CONTEXT"],
        [_fields(record) for record in records],
        empty="no such record",
    )


def _records(keystore: "Keystore", region: str | None) -> Iterator[dict[str, Any]]:
    names = [config.region for config in keystore.regions()]
    if region is not None and region not in names:
        raise RegionNotFoundError(f"region {region} is not configured", hint="kmsfs region list")
    for name in names:
        if region in (None, name):
            yield from keystore.audits.read(name)


def _chosen(
    records: Iterable[dict[str, Any]], key: str | None, action: str | None
) -> Iterator[dict[str, Any]]:
    for record in records:
        arn = str(record.get("key"))
        if key in (None, arn, arn.rpartition("/")[2]) and action in (None, record.get("action")):
            yield record


def _time(record: dict[str, Any]) -> str:
    return str(record.get("time"))


def _fields(record: dict[str, Any]) -> list[str]:
    principal, arn = str(record.get("principal")), str(record.get("key") or "-")
    about = {**record.get("context", {}), **record.get("details", {})}
    return [
        _time(record),
        principal.rpartition(":")[2],
        *(str(record.get(name)) for name in ("uid", "via", "action", "count")),
        arn.rpartition("/")[2],
        str(record.get("result")),
        json.dumps(about) if about else "",
    ]


def _row(finding: "SegmentFinding") -> list[str]:
    found = finding.problem or finding.remark or "whole and authentic"
    return [finding.region, finding.segment, finding.state, str(finding.records), found]

"""``kmsfs report``: the evidence of a migration, signed, and whether it is what a region signed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.home import home_path, open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.rekeying import text
from kmsfs.cli.terminal import print_fields, print_json
from kmsfs.cli.trees import open_tree
from kmsfs.errors import InvalidRequestError

if TYPE_CHECKING:
    from kmsfs.tools.changes import KeyedTree
    from kmsfs.tools.report import Report

_TOLD = (
    "tree_id",
    "tree",
    "copy_of",
    "key_to",
    "keys_from",
    "state",
    "started",
    "ended",
    "reencrypt",
    "files",
    "failures",
)

command = help_group(
    "report",
    """Make and verify the signed reports of migrations.

    A report lists every file by its id, with the keys and material that it was under and is under now. The region that
    the files went to signs it; kmsfs migrate writes it when it is done.

    \b
    Example:
      kmsfs report key --region us-east-1 > us-east-1.pem
      kmsfs report verify report.jsonl
    """,
)


@command.command(context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option("--migration", metavar="ID", help="Which one: the name of its directory. [the last]")
@json_option()
def create(tree: Path, migration: str | None, as_json: bool) -> None:
    """Write the report of a tree's migration, as that stands now.

    For when it could not be written at the end of the migration, or was lost. TREE is a tree or a mount.

    \b
    Example:
      kmsfs report create ~/tree
    """
    from kmsfs.tools import report

    with open_keystore(via="migrate") as keystore, open_tree(keystore, tree, touch=False) as work:
        directory = _journal_of(work, tree, migration)
        _tell(report.write(keystore, directory), as_json=as_json)


def _journal_of(work: "KeyedTree", tree: Path, migration: str | None) -> Path:
    from kmsfs.tools.journal import find_last, migrations_of

    if migration is None:
        directory = find_last(home_path(), work.block.tree_id, work.path)
        if directory is None:
            raise InvalidRequestError(
                f"{tree} was never migrated from this home", hint="kmsfs migrate TREE --to-key KEY"
            )
        return directory
    parent = migrations_of(home_path(), work.block.tree_id.hex())
    if not parent.is_dir() or migration not in os.listdir(parent):
        raise InvalidRequestError(f"{tree} has no migration {migration}", hint=f"they are in {parent}")
    return parent / migration


@command.command(context_settings=HELP_NAMES)
@click.argument("report", metavar="REPORT", type=click.Path(path_type=Path))
@json_option()
def verify(report: Path, as_json: bool) -> None:
    """Check a report with the key in its region's token.

    REPORT is the file report.jsonl; the signature and the public key lie beside it. Ends with the exit code integrity
    if the region did not sign this report, or the public key is not the region's.

    \b
    Example:
      kmsfs report verify report.jsonl
    """
    from kmsfs.tools import report as reports

    with open_keystore() as keystore:
        _tell(reports.verify(keystore, report), as_json=as_json)


@command.command(context_settings=HELP_NAMES)
@region_option("Region whose reports it verifies; may be left out when one region is configured.")
@json_option()
def key(region: str | None, as_json: bool) -> None:
    """Show the public key of a region's reports, for auditors.

    It is made if there is none yet, so that it can be handed over before a migration begins.

    \b
    Example:
      kmsfs report key --region us-east-1 > us-east-1.pem
    """
    with open_keystore() as keystore:
        found = keystore.report_key(region)
    if as_json:
        print_json(
            {"region": found.region, "fingerprint": found.fingerprint, "public_key": found.pem.decode()}
        )
    else:
        click.echo(found.pem, nl=False)


def _tell(report: "Report", *, as_json: bool) -> None:
    told = {
        "report": str(report.path),
        "signature": str(report.signature),
        "public_key": str(report.public_key),
        "region": report.key.region,
        "fingerprint": report.key.fingerprint,
        **{name: report.head.get(name) for name in _TOLD},
    }
    if as_json:
        print_json(told)
    else:
        print_fields({name.replace("_", " "): text(value) for name, value in told.items()})

"""``kmsfs migrate``: bring a whole tree under another key, in a way that can be stopped, resumed and proved."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmsfs.cli import rekeying
from kmsfs.cli.copied import copied
from kmsfs.cli.home import home_path, open_keystore
from kmsfs.cli.interrupt import stop_on_signal
from kmsfs.cli.options import HELP_NAMES, json_option, region_option, touch_option
from kmsfs.cli.progress import Progress
from kmsfs.cli.reporting import written_report
from kmsfs.cli.terminal import print_fields, print_json, print_line
from kmsfs.cli.trees import open_tree, tree_and_mount
from kmsfs.errors import IncompleteError, InvalidRequestError, TreeBusyError, UsageError

if TYPE_CHECKING:
    from kmsfs.ids import KeyArn
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.change_list import ChangeList
    from kmsfs.tools.changes import KeyedTree, Way
    from kmsfs.tools.convergence import Result
    from kmsfs.tools.journal import Journal, State
    from kmsfs.tools.runners import Runner

_ACTIONS = ("dry_run", "resume", "pause", "cancel", "status", "verify")


@click.command("migrate", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option("--to-key", metavar="KEY", help="The key that every file is to be under.")
@region_option()
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and how long it would take.")
@click.option("--resume", is_flag=True, help="Go on with the migration that was paused or stopped.")
@click.option("--pause", is_flag=True, help="Ask the running migration to stop after its batch.")
@click.option("--cancel", is_flag=True, help="End the migration: what is done stays done.")
@click.option("--status", is_flag=True, help="Say where the migration stands.")
@click.option("--verify", is_flag=True, help="See that every file opens under --to-key alone.")
@click.option("--rate", metavar="N", type=click.FloatRange(min=0.1), help="At most N HSM calls a second.")
@click.option("--reencrypt", is_flag=True, help="Give every file a new data key and new ciphertext.")
@click.option(
    "--copy-to",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Migrate a copy that is made there, and leave the tree as it is.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers make the HSM calls.")
@touch_option()
@json_option()
def command(tree: Path, to_key: str | None, region: str | None, as_json: bool, **options: Any) -> None:
    """Bring a whole tree under another key.

    TREE is a tree or a mount. Zones and replicas come under the key as well. No data is touched and files stay
    readable throughout; a journal in KMSFS_HOME lets it go on after whatever stopped it.

    \b
    Example:
      kmsfs migrate ~/tree --to-key alias/files --region us-east-1 --dry-run
      kmsfs migrate ~/tree --to-key alias/files --region us-east-1
      kmsfs migrate ~/tree --to-key alias/files --region us-east-1 --verify
      kmsfs migrate ~/tree --to-key alias/files --region us-east-1 --copy-to ~/new --reencrypt
    """
    action = _action(to_key, options)
    if action in ("pause", "status"):
        _tell_journal(tree, pause=action == "pause", as_json=as_json)
        return
    with open_keystore(via="migrate") as keystore:
        copy_of = None
        if options["copy_to"] is not None and to_key is not None:
            copy_of = tree_and_mount(tree)[0]
            key = keystore.resolve(to_key, region=region)
            tree = copied(keystore, copy_of, options["copy_to"], key.arn, dry_run=action == "dry_run")
        with open_tree(keystore, tree, touch=options["touch"]) as work:
            if action == "cancel":
                _cancel(work, tree)
                return
            key_arn = _target(keystore, work, to_key, region, tree)
            if action == "dry_run":
                _plan(keystore, work, key_arn, as_json=as_json)
            elif action == "verify":
                _verify(keystore, work, key_arn, tree, as_json=as_json)
            else:
                _migrate(keystore, work, key_arn, tree, copy_of, options, as_json=as_json)


def _action(to_key: str | None, options: dict[str, Any]) -> str:
    """Return what is to be done, or raise what does not go together."""
    chosen = [name for name in _ACTIONS if options[name]]
    if len(chosen) > 1:
        raise UsageError(
            f"--{chosen[0].replace('_', '-')} and --{chosen[1].replace('_', '-')} exclude each other"
        )
    action = chosen[0] if chosen else "run"
    if action in ("pause", "cancel", "status", "resume") and to_key is not None:
        raise UsageError(f"--{action} takes the key from the journal", hint="leave --to-key out")
    if action in ("dry_run", "verify", "run") and to_key is None:
        raise UsageError("--to-key is missing", hint="see 'kmsfs migrate --help'")
    if options["copy_to"] is not None and action not in ("dry_run", "run"):
        raise UsageError(
            f"--copy-to and --{action} exclude each other",
            hint=f"name the copy: kmsfs migrate {options['copy_to']} --{action}",
        )
    if options["scheduler"] is not None and options["reencrypt"]:
        raise UsageError("--scheduler and --reencrypt exclude each other", hint="only wrapping is shared out")
    return action


def _target(
    keystore: "Keystore", work: "KeyedTree", to_key: str | None, region: str | None, tree: Path
) -> "KeyArn":
    from kmsfs.ids import KeyArn
    from kmsfs.tools.journal import NAME, read
    from kmsfs.tools.migration import find_unreported

    if to_key is None:
        return KeyArn(read(_found(find_unreported(home_path(), work), tree) / NAME).task.to_key)
    return keystore.resolve(to_key, region=region).arn


def _found(directory: Path | None, tree: Path) -> Path:
    if directory is None:
        raise InvalidRequestError(f"{tree} is not being migrated", hint="begin with --to-key")
    return directory


def _tell_journal(tree: Path, *, pause: bool, as_json: bool) -> None:
    """What needs no lock: another process may be at it."""
    from kmsfs.tools import migration
    from kmsfs.tools.journal import NAME, State, find_last, read
    from kmsfs.tree.superblock_file import read_superblock

    path = tree_and_mount(tree)[0]
    directory = find_last(home_path(), read_superblock(path).tree_id, path)
    if directory is None:
        raise InvalidRequestError(f"{tree} was never migrated from this home", hint="begin with --to-key")
    reading = read(directory / NAME)
    if pause:
        _require_running(reading.state, path, tree)
        migration.ask(directory, State.PAUSED)
        print_line(f"the migration of {tree} stops after its batch")
        return
    told = {
        "state": reading.state.value,
        "tree": reading.task.tree,
        "copy_of": reading.task.copy_of or None,
        "to_key": reading.task.to_key,
        "from_keys": list(reading.task.from_keys),
        "done": reading.done,
        "journal": str(directory),
    }
    if as_json:
        print_json(told)
    else:
        print_fields({name.replace("_", " "): rekeying.text(value) for name, value in told.items()})


def _require_running(state: "State", path: Path, tree: Path) -> None:
    """Raise unless somebody is at work on a migration: else the wish would stop whoever goes on with it."""
    from kmsfs.tools.journal import ENDED, State
    from kmsfs.tree.superblock_file import is_worked_on

    if state in ENDED:
        raise InvalidRequestError(f"the migration of {tree} is {state.value}")
    if state is State.PAUSED or not is_worked_on(path):
        raise InvalidRequestError(
            f"the migration of {tree} is not running", hint="go on with --resume, or end it with --cancel"
        )


def _cancel(work: "KeyedTree", tree: Path) -> None:
    from kmsfs.tools import migration
    from kmsfs.tools.journal import Journal, find_open

    directory = _found(find_open(home_path(), work.block.tree_id, work.path), tree)
    with Journal.resume(directory, work.block.tree_id) as journal:
        migration.cancel(journal, work)
    print_line(f"the migration of {tree} is cancelled; its keys are {', '.join(work.block.key_arns)}")


def _plan(keystore: "Keystore", work: "KeyedTree", key_arn: "KeyArn", *, as_json: bool) -> None:
    from kmsfs.tools import changes, survey

    with Progress("files", partial(survey.count_files, work.path)) as progress:
        plan = survey.plan(
            work,
            changes.migrate(work.block, key_arn),
            rekeying.runner(keystore, work),
            lambda files: progress.show(files, 0),
        )
    told = {
        "files": plan.files,
        "bytes": plan.bytes,
        "to_change": plan.stale,
        "hsm_calls": plan.hsm_calls,
        "expected_seconds": plan.seconds,
        "unreadable": len(plan.failures),
    }
    if as_json:
        print_json(told)
    else:
        print_fields({name.replace("_", " "): f"{value:,}" for name, value in told.items()})


def _verify(keystore: "Keystore", work: "KeyedTree", key_arn: "KeyArn", tree: Path, *, as_json: bool) -> None:
    from kmsfs.tools import survey

    with Progress("files", partial(survey.count_files, work.path)) as progress:
        verdict = survey.verify(work, keystore, key_arn, progress.show)
    told = {"files": verdict.files, "key_arn": key_arn, "failed": rekeying.rows(verdict.failures)}
    if as_json:
        print_json(told)
    else:
        print_line(
            f"{verdict.files - len(verdict.failures):,} of {verdict.files:,} files open under {key_arn} alone"
        )
        rekeying.print_failures(verdict.failures)
    if verdict.failures:
        raise IncompleteError(
            f"{tree}: {len(verdict.failures):,} files do not open under {key_arn} alone",
            hint="mend or remove them, then run the migration again",
        )


def _migrate(
    keystore: "Keystore",
    work: "KeyedTree",
    key_arn: "KeyArn",
    tree: Path,
    copy_of: Path | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from kmsfs.tools import copying, migration
    from kmsfs.tools.change_list import ChangeList
    from kmsfs.tools.throttle import Rate

    rate = None if options["rate"] is None else Rate(options["rate"])
    if options["reencrypt"] and not work.alone:
        raise TreeBusyError(f"{work.path} is mounted", hint="unmount it: files are replaced as a whole")
    held = ExitStack()
    runner: Runner = rekeying.runner(keystore, work, rate)
    runner.targets((key_arn,))  # before there is a journal
    if options["scheduler"] is not None:
        runner = held.enter_context(rekeying.cluster(options["scheduler"], keystore, work, rate))
    keystore.note_tree(work.block.tree_id, work.path, {*work.block.key_arns, key_arn}, besides=True, under={})
    changed = ChangeList(home_path(), work.block.tree_id)
    with (
        held,
        migration.open_journal(
            home_path(),
            work,
            key_arn,
            touch=options["touch"],
            reencrypt=options["reencrypt"],
            copy_of=copy_of,
        ) as journal,
        rekeying.way(journal, keystore, work, rate) as way,
    ):
        result = _run(journal, work, runner, changed, way)
    if result.complete and not result.failures:
        keystore.note_tree(work.block.tree_id, work.path, work.block.key_arns, under=result.under)
    with written_report(keystore, journal.directory) as report:
        if result.complete and not result.failures:
            copying.finish(work.path)  # the last step: until then the same command goes on
        rekeying.tell(result, tree, changed, as_json=as_json, journal=str(journal.directory), report=report)


def _run(
    journal: "Journal", work: "KeyedTree", runner: "Runner", changed: "ChangeList", way: "Way"
) -> "Result":
    from kmsfs.tools import migration, survey

    with (
        Progress("files", partial(survey.count_files, work.path)) as progress,
        stop_on_signal() as stop,
    ):
        hooks = migration.Hooks(lambda tally: progress.show(tally.files, len(tally.failures)), stop)
        try:
            return migration.run(journal, work, runner, changed, hooks, way)
        finally:
            changed.close()

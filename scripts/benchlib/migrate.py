"""``scripts/bench migrate``: a tree of small files goes to a key of another token, beside the module's own calls.

Raw is the pair that no migration can do without, one decryption and one encryption for each file, by python-pkcs11's
public methods (kms_inside.py). Tree and tokens are on tmpfs. Memory is the largest resident set of the process, for a
tenth of the files and for all of them. With --workers the same batches go to a Dask cluster on this machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchlib.files import MEMORY_BACKED
from benchlib.kms_inside import module_calls
from benchlib.results import Comparison, machine, table
from benchlib.systems import KMSFS, command
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import changes
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.change_list import ChangeList
from kmsfs.tools.cluster import Cluster
from kmsfs.tools.journal import Journal, new_task
from kmsfs.tools.migration import Ledgers
from kmsfs.tools.runners import InProcess, Runner
from kmsfs.tree.rekey import Rekeyer

BUDGET = 0.4
PAIRS = 20_000
A_DIRECTORY = 500  # files
REGIONS = ("eu-west-1", "us-east-1")
DASK = Path(sys.executable).with_name("dask")


def add_parser(commands: "argparse._SubParsersAction", name: str) -> None:
    parser = commands.add_parser(name, help="a migration beside the module's own calls")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="sizes of Dask clusters to try"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(args: argparse.Namespace) -> int:
    about = machine()
    with tempfile.TemporaryDirectory(prefix="kmsfs-bench-", dir=MEMORY_BACKED) as temporary:
        home, place = Path(temporary, "home"), Path(temporary)
        keys = _set_up(home)
        small, large = place / "small", place / "large"
        _fill(home, keys[0], small, args.files // 10)
        _fill(home, keys[0], large, args.files)
        rows, peaks = compare(home, keys, (small, large), args.rounds)
        for count in args.workers:
            rows.append(_with_workers(home, keys, large, place, count, args.rounds))
    print(table(rows))
    print(
        f"largest resident set: {peaks[0]:.0f} MiB after {args.files // 10:,} files, "
        f"{peaks[1]:.0f} after {args.files:,}"
    )
    if args.json:
        results = [row.as_json() for row in rows]
        args.json.write_text(
            json.dumps({"machine": about, "results": results, "peak_mib": peaks}, indent=2) + "\n"
        )
    return 0


def compare(
    home: Path, keys: list[KeyArn], trees: tuple[Path, Path], rounds: int
) -> tuple[list[Comparison], list[float]]:
    """Migrate there and back in this process."""
    ours, raw, peaks = [], [], []
    with Keystore.open(home, via="migrate") as keystore:
        for tree in trees:
            files, _ = migrate(keystore, home, tree, keys[1])
            migrate(keystore, home, tree, keys[0])
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        for number in range(rounds):
            files, seconds = migrate(keystore, home, trees[1], keys[1 - number % 2])
            ours.append(seconds)
            raw.append(files * _pair_seconds(keystore))
        if rounds % 2:
            migrate(keystore, home, trees[1], keys[0])
    return [
        Comparison(f"migrate {files:,} files, one process", BUDGET, {"kmsfs": ours, "module": raw})
    ], peaks


def migrate(
    keystore: Keystore, home: Path, path: Path, key: KeyArn, scheduler: str | None = None
) -> tuple[int, float]:
    """(files, seconds) of a migration as ``kmsfs migrate`` does it, journal and change list included, but no report."""
    start = time.perf_counter()
    with UnmountedTree(keystore, path) as tree, ExitStack() as held:
        local = InProcess(Rekeyer(keystore, tree.block.tree_id))
        runner: Runner = local
        if scheduler is not None:
            runner = held.enter_context(Cluster(scheduler, local, tree.block.tree_id))
        task = new_task(tree.block.tree_id, path, key, tree.block.key_arns, touch=False)
        journal = held.enter_context(Journal.begin(home, task))
        listed = ChangeList(home, tree.block.tree_id)
        result = changes.apply(
            changes.migrate(tree.block, key),
            tree,
            runner,
            Ledgers(journal, listed),
            progress=lambda tally: None,
        )
        listed.close()
    if not result.complete or result.failures or result.done != result.files:
        raise SystemExit(f"bench: the migration is not what it should be: {result}")
    return result.files, time.perf_counter() - start


def _pair_seconds(keystore: Keystore) -> float:
    """How long the module takes to decrypt a data key and to encrypt it again."""
    seal, unseal = module_calls(keystore, REGIONS[0])
    start = time.perf_counter()
    for _ in range(PAIRS):
        unseal()
        seal()
    return (time.perf_counter() - start) / PAIRS


def _set_up(home: Path) -> list[KeyArn]:
    with Keystore.open(home, via="bench") as keystore:
        for region in REGIONS:
            keystore.add_region(region)
        return [keystore.create_key(region=region).arn for region in REGIONS]


def _fill(home: Path, key: KeyArn, tree: Path, files: int) -> None:
    """Make a tree of small files, through a mount as anybody would."""
    env = {**os.environ, "KMSFS_HOME": str(home)}
    mountpoint = tree.with_name(f"{tree.name}.mnt")
    mountpoint.mkdir()
    command(KMSFS, "init", tree, "--key", key, env=env)
    command(KMSFS, "mount", tree, mountpoint, env=env)
    try:
        for number in range(files):
            directory = mountpoint / str(number // A_DIRECTORY)
            if number % A_DIRECTORY == 0:
                directory.mkdir()
            (directory / str(number)).write_bytes(b"x" * 100)
    finally:
        command(KMSFS, "unmount", mountpoint, env=env)


def _with_workers(
    home: Path, keys: list[KeyArn], tree: Path, place: Path, count: int, rounds: int
) -> Comparison:
    ours, raw = [], []
    with _cluster(home, place, count) as address, Keystore.open(home, via="migrate") as keystore:
        for number in range(rounds + rounds % 2):
            files, seconds = migrate(keystore, home, tree, keys[1 - number % 2], address)
            ours.append(seconds)
            raw.append(files * _pair_seconds(keystore))
    return Comparison(f"migrate {files:,} files, {count} Dask workers", 0.0, {"kmsfs": ours, "module": raw})


@contextmanager
def _cluster(home: Path, place: Path, count: int) -> Iterator[str]:
    env = {**os.environ, "KMSFS_HOME": str(home)}
    described = place / f"scheduler{count}.json"
    listens = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", described)
    alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1")
    started = []
    with (place / "dask.log").open("w") as log, ExitStack() as stack:

        def start(*arguments: str | Path) -> None:
            process = subprocess.Popen([DASK, *arguments], env=env, stdout=log, stderr=log, cwd=place)
            started.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)

        start("scheduler", *listens)
        while not described.exists():
            time.sleep(0.05)
        address = json.loads(described.read_text())["address"]
        for number in range(count):
            start("worker", address, *alone, "--local-directory", place / f"space{count}.{number}")
        _await_workers(address, count)
        yield address


def _await_workers(address: str, count: int) -> None:
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=60)

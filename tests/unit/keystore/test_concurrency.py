"""Threads and processes on one keystore. A crash of the module would take the test run along: hence processes."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kmsfs.errors import AliasNotFoundError, KeyDisabledError
from kmsfs.keystore.model import KeyState
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"

MIXED = """
import random, sys, threading
from pathlib import Path
from typing import Any
from kmsfs.keystore.pool import DataKeyPool
from kmsfs.keystore.service import Keystore

keystore = Keystore.open(Path(sys.argv[1]))
failures = []

def work(number):
    choice = random.Random(number)
    blobs = []
    pools = [DataKeyPool(keystore, keystore.resolve("alias/main", region=r).arn, b"t" * 16) for r in REGIONS]
    try:
        for step in range(400):
            region = choice.choice(REGIONS)
            match choice.randrange(9):
                case 0 if step % 5 == 0:
                    keystore.create_key(region, alias=f"alias/t{number}-{step}")
                case 1:
                    keystore.list_keys()
                case 2 if step % 10 == 0:
                    keystore.check()
                case 3:
                    choice.choice(pools).fill(3)
                case 4:
                    choice.choice(pools).take()
                case 5:
                    keystore.refresh()
                case 6 if blobs:
                    blob, plain = choice.choice(blobs)
                    moved = keystore.re_encrypt(blob, {}, "alias/main", {"n": "1"}, region=region)
                    assert keystore.decrypt(moved.blob, {"n": "1"}).plaintext == plain
                case _:
                    made = keystore.generate_data_key("alias/main", {}, region=region)
                    blobs.append((made.blob, made.plaintext))
            if blobs:
                blob, plain = choice.choice(blobs)
                assert keystore.decrypt(blob, {}).plaintext == plain
    except BaseException as error:
        failures.append(repr(error))

REGIONS = ("us-east-1", "eu-west-1")
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
assert all(finding.ok for finding in keystore.check())
keystore.close()
"""

WRITER = """
import sys
from pathlib import Path
from typing import Any
from kmsfs.keystore.service import Keystore

with Keystore.open(Path(sys.argv[1])) as keystore:
    for number in range(15):
        keystore.create_key("us-east-1", alias=f"alias/{sys.argv[2]}-{number}")
        keystore.encrypt("alias/main", b"x", {}, region="us-east-1")
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (0, "")


def test_threads_with_mixed_operations(ks_home: Path) -> None:
    finish(start(MIXED, ks_home))


def test_processes_that_write_at_once_lose_nothing(ks_home: Path) -> None:
    for process in [start(WRITER, ks_home, name) for name in ("a", "b", "c")]:
        finish(process)
    with Keystore.open(ks_home) as keystore:
        names = {alias.name for alias in keystore.list_aliases(US)}
        assert names == {"alias/main"} | {f"alias/{name}-{number}" for name in "abc" for number in range(15)}
        assert all(finding.ok for finding in keystore.check())


def test_processes_see_each_others_changes(keystore: Keystore, ks_home: Path) -> None:
    made = keystore.generate_data_key("alias/main", {}, region=US)
    keystore.refresh()
    assert not keystore.refresh()
    program = (
        "import sys; from pathlib import Path; from kmsfs.keystore.service import Keystore\n"
        "with Keystore.open(Path(sys.argv[1])) as k: k.{call}"
    )
    finish(start(program.format(call="disable_key('alias/main', region='us-east-1')"), ks_home))
    assert keystore.refresh()
    with pytest.raises(KeyDisabledError):
        keystore.check_usable(made.key_arn)
    with pytest.raises(KeyDisabledError):
        keystore.decrypt(made.blob, {})
    finish(start(program.format(call="enable_key('alias/main', region='us-east-1')"), ks_home))
    assert keystore.describe_key(made.key_arn).state is KeyState.ENABLED
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext
    finish(start(program.format(call="create_key('eu-west-1', alias='alias/theirs')"), ks_home))
    assert len(keystore.list_keys(EU)) == 2
    theirs = keystore.encrypt("alias/theirs", b"x", {}, region=EU)
    assert keystore.decrypt(theirs.blob, {}).plaintext == b"x"


def test_what_another_process_just_made_is_found_at_once(
    keystore: Keystore, ks_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsfs.keystore.regions.REFRESH_INTERVAL_S", 3600.0)
    first = keystore.resolve("alias/main", region=US)
    with Keystore.open(ks_home) as other:
        made = other.create_key(US, alias="alias/new")
        assert keystore.resolve(made.arn) == made
        other.update_alias("alias/new", first.arn, region=US)
        other.create_alias("alias/newer", made.arn, region=US)
        assert keystore.resolve("alias/newer", region=US) == made
        other.rotate_key(first.arn)
        assert keystore.decrypt(other.encrypt(first.arn, b"x", {}).blob, {}).plaintext == b"x"
    with pytest.raises(AliasNotFoundError):
        keystore.resolve("alias/nowhere", region=US)


def test_a_change_shows_without_being_asked_for(
    keystore: Keystore, ks_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keystore.generate_data_key("alias/main", {}, region=US)
    with Keystore.open(ks_home) as other:
        other.disable_key(made.key_arn)
    monkeypatch.setattr("kmsfs.keystore.regions.REFRESH_INTERVAL_S", 0.0)
    with pytest.raises(KeyDisabledError):
        keystore.check_usable(made.key_arn)


def _open_at_once(home: Path, start: Any) -> None:
    start.wait()
    with Keystore.open(home) as keystore:
        keystore.resolve("alias/main", region=US)


def test_processes_that_start_at_once_all_find_the_token(keystore: Keystore) -> None:
    """SoftHSM writes a token's file when somebody logs in; who starts at that moment must not miss the token."""
    spawn = multiprocessing.get_context("spawn")
    for _ in range(5):
        start = spawn.Barrier(4)
        several = [spawn.Process(target=_open_at_once, args=(keystore.home, start)) for _ in range(4)]
        for process in several:
            process.start()
        for process in several:
            process.join()
        assert [process.exitcode for process in several] == [0, 0, 0, 0]

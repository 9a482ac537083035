"""What is due is done by whichever process comes first, once, and whatever else fails."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from testkit.audits import records
from testkit.clock import DAY, Clock

from kmsfs.errors import HsmUnavailableError, KeyNotFoundError, MetadataUnavailableError
from kmsfs.format.context import encode_context
from kmsfs.keystore.audit import Actor
from kmsfs.keystore.audit_log import acting_for
from kmsfs.keystore.model import KeyManager, KeyState
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.transitions import Operation

US, EU = "us-east-1", "eu-west-1"
MAIN = "alias/main"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


def labels(keystore: Keystore, region: str = US) -> list[str]:
    return [key.label for key in keystore._service(region).hsm.list_keys()]


def actions(home: Path, name: str) -> list[dict[str, Any]]:
    return [record for record in records(home, US) if record["action"] == name]


# --- who does it --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "use",
    [
        lambda keystore: keystore.list_keys(),
        lambda keystore: keystore.list_aliases(US),
        lambda keystore: keystore.describe_key(MAIN, region=US),
        lambda keystore: keystore.encrypt(MAIN, b"x", {}, region=US),
        lambda keystore: keystore.create_key(US),
        lambda keystore: keystore.tag_key(MAIN, [("a", "b")], region=US),
        lambda keystore: keystore.delete_alias(MAIN, region=US),
    ],
    ids=["list keys", "list aliases", "describe", "encrypt", "create", "tag", "delete alias"],
)
def test_a_process_that_ends_at_once_does_what_is_due(
    timed: Keystore, clock: Clock, use: Callable[[Keystore], object]
) -> None:
    rotating = timed.enable_key_rotation(MAIN, period_days=90, region=US)
    dying = timed.create_key(US)
    timed.schedule_key_deletion(dying.arn, days=7)
    clock.time += 90 * DAY
    with Keystore.open(timed.home, now=clock) as short:
        use(short)
    snapshot = timed._service(US).ledger.reload()
    assert len(snapshot.keys[rotating.key_id].materials) == 2
    assert dying.key_id not in snapshot.keys
    assert f"kmsfs:{dying.key_id}" not in labels(timed)


def test_what_is_due_is_nobodys_doing(timed: Keystore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record must not say that whose request came just then deleted a key."""
    timed.enable_key_rotation(MAIN, period_days=90, region=US)
    timed.schedule_key_deletion(timed.create_key(US).arn, days=7)
    clock.time += 90 * DAY
    monkeypatch.setattr("kmsfs.keystore.regions.REFRESH_INTERVAL_S", -1.0)
    with acting_for(Actor("arn:aws:iam::000000000000:user/bob", 1, "server", "request")):
        timed.encrypt(MAIN, b"x", {}, region=US)
    for action in ("DeleteKey", "RotateKey"):
        (record,) = actions(timed.home, action)
        assert (record["principal"], record["via"], record.get("request_id")) == ("kmsfs", "cli", None)


def test_a_self_check_changes_nothing(timed: Keystore, clock: Clock) -> None:
    timed.enable_key_rotation(MAIN, period_days=90, region=US)
    before = timed._service(US).ledger.reload().counter
    clock.time += 90 * DAY
    with Keystore.open(timed.home, now=clock) as doctor:
        doctor.check()
    assert timed._service(US).ledger.reload().counter == before


def _use_when_due(home: Path, start: Any, at: float) -> None:
    with Keystore.open(home, now=lambda: at) as keystore:
        start.wait()
        keystore.list_keys(US)
        keystore.refresh()


def test_two_processes_delete_and_rotate_once(timed: Keystore, clock: Clock) -> None:
    rotating = timed.enable_key_rotation(MAIN, period_days=90, region=US)
    dying = [timed.create_key(US) for _ in range(3)]
    for key in dying:
        timed.schedule_key_deletion(key.arn, days=7)
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    both = [
        spawn.Process(target=_use_when_due, args=(timed.home, start, clock.time + 90 * DAY)) for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    snapshot = timed._service(US).ledger.reload()
    assert list(snapshot.keys) == [rotating.key_id]
    assert not snapshot.condemned
    assert labels(timed).count(f"kmsfs:{rotating.key_id}") == 2
    assert sorted(record["key"] for record in actions(timed.home, "DeleteKey")) == sorted(
        key.arn for key in dying
    )
    assert [record["key"] for record in actions(timed.home, "RotateKey")] == [rotating.arn]


# --- crashes ------------------------------------------------------------------------------------
def _die(home: Path, at: float, step: str) -> None:
    """Do what is due, and be killed before the first commit, the end of the second object, or the last commit."""
    with Keystore.open(home, now=lambda: at) as keystore:
        service = keystore._service(US)
        target, name, survives = {
            "condemn": (service.ledger, "_write", 0),
            "destroy": (service.hsm, "destroy", 1),
            "bury": (service.ledger, "_write", 1),
        }[step]
        real, calls = getattr(target, name), count()

        def counted(*arguments: Any) -> Any:
            if next(calls) == survives:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(target, name, counted)
        keystore.list_keys(US)


@pytest.mark.parametrize(("step", "left"), [("condemn", 2), ("destroy", 1), ("bury", 0)])
def test_a_deletion_killed_between_its_steps_is_finished_by_another_process(
    timed: Keystore, clock: Clock, step: str, left: int
) -> None:
    sealed = timed.encrypt(MAIN, b"secret", {}, region=US)
    key = timed.rotate_key(MAIN, region=US)
    timed.schedule_key_deletion(MAIN, region=US)
    clock.time += 30 * DAY
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(timed.home, clock.time, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert labels(timed).count(f"kmsfs:{key.key_id}") == left
    with Keystore.open(timed.home, now=clock) as other:
        assert other.list_keys(US) == other.list_aliases(US) == []
        assert f"kmsfs:{key.key_id}" not in labels(other)
        assert all(finding.ok for finding in other.check())
        with pytest.raises(KeyNotFoundError, match="is not in region"):
            other.decrypt(sealed.blob, {})
    assert len(actions(timed.home, "DeleteKey")) == 1


# --- failures -----------------------------------------------------------------------------------
def unavailable(*_: object, **__: object) -> None:
    raise HsmUnavailableError("the token is full")


def test_a_region_that_fails_holds_no_other_back(
    timed: Keystore, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for region in (EU, US):
        timed.enable_key_rotation(MAIN, period_days=90, region=region)
    monkeypatch.setattr(timed._service(EU).hsm, "generate", unavailable)
    clock.time += 90 * DAY
    timed.refresh()
    timed.refresh()
    assert [len(timed.resolve(MAIN, region=region).materials) for region in (EU, US)] == [1, 2]
    assert timed.decrypt(timed.encrypt(MAIN, b"x", {}, region=EU).blob, {}).plaintext == b"x"
    assert [record.getMessage() for record in caplog.records] == [
        f"region {EU}: what is due cannot be done: the token is full"
    ]


def test_a_key_that_fails_holds_no_other_back(
    timed: Keystore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.enable_key_rotation(MAIN, period_days=90, region=US)
    dying = [timed.create_key(US) for _ in range(2)]
    for key in dying:
        timed.schedule_key_deletion(key.arn, days=7)
    hsm, first = timed._service(US).hsm, dying[0].current_material_id
    real = hsm.destroy
    monkeypatch.setattr(hsm, "destroy", lambda wanted: unavailable() if wanted == first else real(wanted))
    clock.time += 90 * DAY
    timed.refresh()
    snapshot = timed._service(US).snapshot
    assert set(snapshot.condemned) == {dying[0].key_id}
    assert len(timed.resolve(MAIN, region=US).materials) == 2
    monkeypatch.undo()
    with Keystore.open(timed.home, now=clock) as other:
        other.list_keys(US)
    assert not timed._service(US).ledger.reload().condemned


def test_nobody_waits_for_what_is_due(timed: Keystore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread stands in a rotation while another one uses the key and asks for changes."""
    timed.enable_key_rotation(MAIN, period_days=90, region=US)
    hsm, begun, go_on = timed._service(US).hsm, Event(), Event()
    real = hsm.generate

    def held(*arguments: Any, **more: Any) -> None:
        begun.set()
        go_on.wait()
        real(*arguments, **more)

    monkeypatch.setattr(hsm, "generate", held)
    clock.time += 90 * DAY
    thread = Thread(target=timed.refresh)
    thread.start()
    try:
        begun.wait()
        timed.refresh()
        sealed = timed.encrypt(MAIN, b"x", {}, region=US)
        assert timed.decrypt(sealed.blob, {}).plaintext == b"x"
    finally:
        go_on.set()
        thread.join()
    assert len(timed.resolve(MAIN, region=US).materials) == 2


# --- who is second, on a token that no lock of ours guards ------------------------------------------
@pytest.fixture
def unguarded(
    own_token: Path, tmp_path: Path, shim: Path, clock: Clock
) -> Iterator[tuple[Keystore, Keystore]]:
    """Two keystores on one home, whose token is a module's own."""
    home = tmp_path / "home"
    with Keystore.open(home, now=clock) as first, Keystore.open(home, now=clock) as second:
        first.add_region(US, module=shim, token_label="own", pin_file=own_token)
        first.create_key(US, alias=MAIN)
        yield first, second


def test_who_commits_a_rotation_second_takes_its_material_back(
    unguarded: tuple[Keystore, Keystore], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = unguarded
    key = first.enable_key_rotation(MAIN, period_days=90, region=US)
    clock.time += 90 * DAY
    hsm = first._service(US).hsm
    real = hsm.generate

    def overtaken(*arguments: Any, **more: Any) -> None:
        second.list_keys(US)
        real(*arguments, **more)

    monkeypatch.setattr(hsm, "generate", overtaken)
    first.refresh()
    assert len(first.resolve(key.arn).materials) == 2
    assert labels(first).count(f"kmsfs:{key.key_id}") == 2
    assert len(actions(first.home, "RotateKey")) == 1


def test_who_deletes_second_says_nothing_of_it(
    unguarded: tuple[Keystore, Keystore], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = unguarded
    first.schedule_key_deletion(MAIN, days=7, region=US)
    clock.time += 7 * DAY
    hsm = first._service(US).hsm
    real = hsm.destroy

    def overtaken(*arguments: Any, **more: Any) -> None:
        second.list_keys(US)
        real(*arguments, **more)

    monkeypatch.setattr(hsm, "destroy", overtaken)
    first.refresh()
    assert first.list_keys(US) == []
    assert len(actions(first.home, "DeleteKey")) == 1


def test_a_commit_that_succeeds_and_says_it_failed_keeps_its_material(
    timed: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to a database may end between the commit and its answer."""
    store, hsm = timed._store, timed._service(US).hsm
    real = store.write

    def unanswered(*arguments: Any) -> None:
        real(*arguments)
        raise MetadataUnavailableError("connection lost")

    monkeypatch.setattr(store, "write", unanswered)
    with pytest.raises(MetadataUnavailableError):
        timed._service(US).lifecycle.rotate_on_demand(timed.resolve(MAIN, region=US).key_id)
    monkeypatch.undo()
    key = timed.describe_key(MAIN, region=US)
    assert len(key.materials) == 2
    assert hsm.holds(key.current_material_id)
    timed.encrypt(MAIN, b"x", {}, region=US)


def test_a_commit_that_fails_takes_its_material_back(
    timed: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = timed.resolve(MAIN, region=US)

    def unavailable_store(*_: Any) -> None:
        raise MetadataUnavailableError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(timed._store, "write", unavailable_store)
        with pytest.raises(MetadataUnavailableError):
            timed._service(US).lifecycle.rotate_on_demand(key.key_id)
    assert labels(timed).count(f"kmsfs:{key.key_id}") == 1


# --- edges --------------------------------------------------------------------------------------
def test_a_deletion_is_cancelled_just_before_it_is_due(timed: Keystore, clock: Clock) -> None:
    key = timed.schedule_key_deletion(MAIN, days=7, region=US)
    clock.time += 7 * DAY - 1
    assert timed.cancel_key_deletion(key.arn).state is KeyState.DISABLED
    clock.time += 30 * DAY
    timed.refresh()
    assert timed.enable_key(MAIN, region=US).state is KeyState.ENABLED


def test_a_deletion_cancelled_elsewhere_is_not_carried_out(timed: Keystore, clock: Clock) -> None:
    """A process whose picture is old has to look again before it condemns the key."""
    key = timed.schedule_key_deletion(MAIN, days=7, region=US)
    with Keystore.open(timed.home, now=lambda: 2_000_000_000.0) as other:
        other.cancel_key_deletion(key.arn)
    clock.time += 7 * DAY
    timed._service(US).lifecycle.sweep()
    assert timed.describe_key(key.arn).state is KeyState.DISABLED


def test_a_key_that_was_rotated_elsewhere_is_not_rotated_again(timed: Keystore, clock: Clock) -> None:
    key = timed.enable_key_rotation(MAIN, period_days=90, region=US)
    clock.time += 90 * DAY
    with Keystore.open(timed.home, now=clock) as other:
        other.describe_key(key.arn)
    timed._service(US).lifecycle.sweep()
    assert len(timed.describe_key(key.arn).materials) == 2


def test_an_owned_key_is_there_for_nobody(timed: Keystore) -> None:
    service = timed._service(US)
    owned = service.lifecycle.create("", None, KeyManager.OWNED)
    (entry,) = (found for found in service.snapshot.materials.values() if found.key == owned)
    blob, _, _ = service.seal(entry, Operation.ENCRYPT, b"own", encode_context({}))
    for use in (
        lambda: timed.encrypt(owned.arn, b"x", {}),
        lambda: timed.decrypt(blob, {}),
        lambda: timed.key_of_blob(blob),
        lambda: timed.describe_key(owned.arn),
        lambda: timed.create_alias("alias/mine", owned.arn),
        lambda: timed.update_alias(MAIN, owned.arn, region=US),
        lambda: timed.disable_key(owned.arn),
        lambda: timed.schedule_key_deletion(owned.arn),
        lambda: timed.rotate_key(owned.arn),
        lambda: timed.tag_key(owned.arn, [("a", "b")]),
    ):
        with pytest.raises(KeyNotFoundError):
            use()
    assert owned.arn not in {key.arn for key in timed.list_keys(US)}

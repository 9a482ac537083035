"""How hard the HSM is asked: with a clock of the test's own."""

from collections.abc import Sequence
from typing import NoReturn

import pytest

from kmsfs.errors import HsmTimeoutError, HsmUnavailableError, KeyDisabledError, KmsfsError
from kmsfs.ids import KeyArn
from kmsfs.tools import throttle
from kmsfs.tools.runners import InProcess
from kmsfs.tools.throttle import ATTEMPTS, Patience, Rate, persistently
from kmsfs.tree.rekey import Rekeyer, TargetError, Targets


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("per_s", "calls", "times"), [(100, 2, 500), (0.5, 1, 3), (1000, 300, 10)])
def test_no_more_than_so_many_a_second(per_s: float, calls: int, times: int) -> None:
    clock = Clock()
    rate = Rate(per_s, clock, clock.sleep)
    for _ in range(times):
        rate.take(calls)
    rate.take(calls)
    assert clock.now - 1000.0 == pytest.approx(calls * times / per_s)


def test_what_was_not_used_is_not_saved_up() -> None:
    clock = Clock()
    rate = Rate(10, clock, clock.sleep)
    clock.sleep(100)
    rate.take(1)
    before = clock.now
    rate.take(1)
    assert clock.now - before == pytest.approx(0.1)


class Hsm:
    """Fails so many times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.left, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


TRANSIENT = [HsmUnavailableError("x"), HsmTimeoutError("x"), TargetError(HsmTimeoutError("x"))]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_an_hsm_that_comes_back_is_waited_for(error: Exception) -> None:
    waits: list[float] = []
    assert persistently(Hsm(ATTEMPTS - 1, error), waits.append) == "done"
    assert len(waits) == ATTEMPTS - 1
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waits))


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_one_that_does_not_is_told(error: Exception) -> None:
    hsm = Hsm(ATTEMPTS, error)
    with pytest.raises(type(error)):
        persistently(hsm, lambda seconds: None)
    assert hsm.calls == ATTEMPTS


def test_one_that_is_away_is_waited_for_once_a_batch_and_not_for_every_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a tree of a million files would take months to tell that the HSM of a zone does not answer."""
    monkeypatch.setattr(throttle, "FIRST_WAIT_S", 0.0)
    away = Away()
    runner = InProcess(away)
    runner.targets(())
    assert [type(result) for result in runner.run([(b"", ())] * 50)] == [HsmUnavailableError] * 50
    assert away.calls == ATTEMPTS + 50


def test_what_asks_file_by_file_is_patient_until_the_hsm_is_away() -> None:
    waits: list[float] = []
    patience = Patience(waits.append)
    for _ in range(3):
        with pytest.raises(HsmTimeoutError):
            patience.ask(Hsm(99, HsmTimeoutError("x")))
    assert len(waits) == ATTEMPTS - 1
    assert patience.ask(Hsm(0, HsmTimeoutError("x"))) == "done"
    assert patience.ask(Hsm(1, HsmTimeoutError("x"))) == "done", (
        "it answers again, and so is waited for again"
    )


class Away(Rekeyer):
    """Whose HSM does not answer."""

    def __init__(self) -> None:
        self.calls = 0

    def targets(self, wanted: Sequence[KeyArn]) -> Targets:
        return ()

    def swaps(self, jobs: Sequence[tuple[bytes, Targets]]) -> NoReturn:
        self.calls += 1
        raise HsmUnavailableError("x")

    def swap(self, raw: bytes, targets: Targets) -> NoReturn:
        self.calls += 1
        raise HsmUnavailableError("x")


@pytest.mark.parametrize("error", [KeyDisabledError("x"), TargetError(KeyDisabledError("x"))])
def test_what_does_not_pass_is_told_at_once(error: KmsfsError | TargetError) -> None:
    hsm = Hsm(1, error)
    with pytest.raises(type(error)):
        persistently(hsm, lambda seconds: pytest.fail("waited"))
    assert hsm.calls == 1

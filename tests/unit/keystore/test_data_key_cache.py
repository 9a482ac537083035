"""Unwrapped data keys: bounded by count and age, one unwrap for many who wait, no failure kept."""

from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

import pytest

from kmsfs.errors import IncorrectKeyError, InvalidCiphertextError, TokenNotFoundError
from kmsfs.keystore.data_key_cache import DataKeyCache
from kmsfs.keystore.results import GeneratedDataKey
from kmsfs.keystore.service import Keystore

CONTEXT = {"a": "b"}


@pytest.fixture
def made(keystore: Keystore) -> GeneratedDataKey:
    return keystore.generate_data_key("alias/main", CONTEXT, region="us-east-1")


def test_the_second_unwrap_costs_nothing(keystore: Keystore, made: GeneratedDataKey) -> None:
    cache = DataKeyCache(keystore)
    before = keystore.hsm_calls
    assert cache.peek(made.blob, CONTEXT) is None
    for _ in range(3):
        assert cache.unwrap(made.blob, CONTEXT, made.key_arn) == made.plaintext
    assert cache.peek(made.blob, CONTEXT) == made.plaintext
    assert (keystore.hsm_calls, cache.unwraps, len(cache)) == (before + 1, 1, 1)
    assert repr(made.plaintext) not in repr(vars(cache))


def test_another_context_is_another_key(keystore: Keystore, made: GeneratedDataKey) -> None:
    cache = DataKeyCache(keystore)
    cache.unwrap(made.blob, CONTEXT, made.key_arn)
    assert cache.peek(made.blob, {"a": "c"}) is None
    for _ in range(2):
        with pytest.raises(InvalidCiphertextError):
            cache.unwrap(made.blob, {"a": "c"}, made.key_arn)
    assert (cache.unwraps, len(cache)) == (3, 1)


def test_a_cached_key_is_not_given_for_another_cmk(keystore: Keystore, made: GeneratedDataKey) -> None:
    cache = DataKeyCache(keystore)
    cache.unwrap(made.blob, CONTEXT, made.key_arn)
    other = keystore.create_key("us-east-1")
    with pytest.raises(IncorrectKeyError):
        cache.unwrap(made.blob, CONTEXT, other.arn)
    assert cache.unwrap(made.blob, CONTEXT, made.key_arn) == made.plaintext


def test_age_is_bounded(keystore: Keystore, made: GeneratedDataKey) -> None:
    now = [0.0]
    cache = DataKeyCache(keystore, max_age_s=10, clock=lambda: now[0])
    cache.unwrap(made.blob, CONTEXT, made.key_arn)
    now[0] = 10.0
    cache.expire()
    assert cache.peek(made.blob, CONTEXT) == made.plaintext
    now[0] = 10.1
    assert cache.peek(made.blob, CONTEXT) is None
    assert len(cache) == 0
    cache.unwrap(made.blob, CONTEXT, made.key_arn)
    assert cache.unwraps == 2
    now[0] = 30.0
    cache.expire()
    assert len(cache) == 0


def test_count_is_bounded_and_the_least_used_goes_first(keystore: Keystore) -> None:
    cache = DataKeyCache(keystore, max_entries=2)
    keys = [keystore.generate_data_key("alias/main", CONTEXT, region="us-east-1") for _ in range(3)]
    for key in (keys[0], keys[1], keys[0], keys[2]):
        cache.unwrap(key.blob, CONTEXT, key.key_arn)
    assert [cache.peek(key.blob, CONTEXT) is not None for key in keys] == [True, False, True]
    assert len(cache) == 2


def test_purge_forgets_one_cmk_or_all(keystore: Keystore, made: GeneratedDataKey) -> None:
    cache = DataKeyCache(keystore)
    other = keystore.generate_data_key("alias/main", CONTEXT, region="eu-west-1")
    for key in (made, other):
        cache.unwrap(key.blob, CONTEXT, key.key_arn)
    cache.purge(made.key_arn)
    assert cache.peek(made.blob, CONTEXT) is None
    assert cache.peek(other.blob, CONTEXT) == other.plaintext
    cache.purge()
    assert len(cache) == 0


class HeldKeystore:
    """A keystore whose unwrap waits until it may go on."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.started, self.go = Event(), Event()
        self.calls = 0
        self._answer = answer

    def unwrap(self, _blob: bytes, _context: Mapping[str, str], *, ref: str) -> bytes:
        self.calls += 1
        self.started.set()
        assert self.go.wait(30)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def unwrap_in_threads(cache: DataKeyCache, count: int) -> tuple[list[Thread], list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(cache.unwrap(b"blob", {}, "arn"))
        except Exception as error:
            results.append(error)

    threads = [Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


@pytest.mark.parametrize("answer", [b"data key", TokenNotFoundError("token is away")])
def test_many_threads_cost_one_unwrap(answer: bytes | Exception) -> None:
    held = HeldKeystore(answer)
    cache = DataKeyCache(held)  # type: ignore[arg-type]
    threads, results = unwrap_in_threads(cache, 5)
    assert held.started.wait(30)
    held.go.set()
    for thread in threads:
        thread.join()
    if isinstance(answer, Exception):
        assert set(map(str, results)) == {"token is away"}
        assert len(cache) == 0
        with pytest.raises(TokenNotFoundError):
            cache.unwrap(b"blob", {}, "arn")
    else:
        assert results == [answer] * 5
        assert held.calls == cache.unwraps == 1


def test_a_purge_during_an_unwrap_keeps_nothing() -> None:
    held = HeldKeystore(b"data key")
    cache = DataKeyCache(held)  # type: ignore[arg-type]
    threads, results = unwrap_in_threads(cache, 1)
    assert held.started.wait(30)
    cache.purge("another arn")
    cache.purge("arn")
    held.go.set()
    threads[0].join()
    assert results == [b"data key"]
    assert len(cache) == 0

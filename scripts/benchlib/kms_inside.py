"""The keystore's own calls beside what they cannot do without: the module's, through python-pkcs11 and no more.

The module's call has the same key, plaintext, IV size and AAD, and is made under the module's lock, which a process
with threads must hold. Two ways to compare, because they differ: "in turn" makes one call of each after the other,
so that the module's too comes after other work, as in any program; "in loops" makes many calls of one kind, then of the
other: the module then has the processor's caches to itself. Warmed up first, like a process that stays: the
blocks in which uses are reserved have their full size.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from unittest import mock

from pkcs11 import Mechanism
from pkcs11.mechanisms import GCMParams

from benchlib.results import Comparison
from kmsfs.format.blob import Suite
from kmsfs.format.context import encode_context
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.wrapping import kdf_input

BUDGET = 0.7
CALLS = 2_000
WARM_UP = 25_000
DISTINCT_BLOBS = 500
REGIONS = {"eu-west-1": Suite.HSM_GCM, "eu-west-2": Suite.HSM_KDF}
CONTEXT = {"purpose": "bench"}
PLAIN = bytes(32)

Call = Callable[[], object]
Way = Callable[[Call, Call], tuple[float, float]]


def compare_in_process(home: Path, rounds: int) -> list[Comparison]:
    """Compare every use of a key, for both suites."""
    with Keystore.open(home, via="bench") as keystore:
        return [
            comparison
            for region, suite in REGIONS.items()
            for comparison in _compare_suite(keystore, region, suite, rounds)
        ]


def _compare_suite(keystore: Keystore, region: str, suite: Suite, rounds: int) -> Iterator[Comparison]:
    with mock.patch.object(Pkcs11Hsm, "probe_suite", return_value=suite):  # SoftHSM would do for both
        keystore.add_region(region)
    arn = keystore.create_key(region=region).arn
    blobs = cycle([keystore.encrypt(arn, PLAIN, CONTEXT).blob for _ in range(DISTINCT_BLOBS)])
    seal, unseal = _module_calls(keystore, region)
    pairs: dict[str, tuple[Call, Call]] = {
        "Decrypt": (lambda: keystore.decrypt(next(blobs), CONTEXT), unseal),
        "Encrypt": (lambda: keystore.encrypt(arn, PLAIN, CONTEXT), seal),
        "GenerateDataKey": (lambda: keystore.generate_data_key(arn, CONTEXT), seal),
    }
    for _ in range(WARM_UP):
        keystore.encrypt(arn, PLAIN, CONTEXT)
    for name, (ours, raw) in pairs.items():
        for way_name, way in WAYS.items():
            seconds = [way(ours, raw) for _ in range(rounds)]
            yield Comparison(
                f"{name} in process, suite {int(suite)}, {way_name}, {CALLS} calls",
                BUDGET,
                {"kmsfs": [pair[0] for pair in seconds], "module": [pair[1] for pair in seconds]},
            )


def _module_calls(keystore: Keystore, region: str) -> tuple[Call, Call]:
    """Return the module's calls that sealing and opening cannot do without."""
    service = keystore._service(region)
    (entry,) = service.snapshot.materials.values()
    key, lock = service.hsm._keys[entry.material.material_id], service.hsm._module.lock
    nonce = bytes(entry.material.suite.nonce_size)

    def locked(use: Callable[..., object], data: bytes, mechanism: Mechanism, param: object) -> object:
        with lock:
            return use(data, mechanism=mechanism, mechanism_param=param)

    if entry.material.suite is Suite.HSM_KDF:
        sign = partial(locked, key.sign, kdf_input(entry.key.arn, nonce), Mechanism.SHA256_HMAC, None)
        return sign, sign
    aad = entry.prefix + nonce + encode_context(CONTEXT)
    mechanism, param = Mechanism.AES_GCM, GCMParams(nonce, aad, 128)
    seal = partial(locked, key.encrypt, PLAIN, mechanism, param)
    return seal, partial(locked, key.decrypt, seal(), mechanism, param)


def _in_turn(ours: Call, raw: Call) -> tuple[float, float]:
    clock, spent_by_us, spent_by_module = time.perf_counter, 0.0, 0.0
    for _ in range(CALLS):
        start = clock()
        raw()
        between = clock()
        ours()
        spent_by_us += clock() - between
        spent_by_module += between - start
    return spent_by_us, spent_by_module


def _in_loops(ours: Call, raw: Call) -> tuple[float, float]:
    return _loop(ours), _loop(raw)


def _loop(call: Call) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return time.perf_counter() - start


WAYS: dict[str, Way] = {"in turn": _in_turn, "in loops": _in_loops}

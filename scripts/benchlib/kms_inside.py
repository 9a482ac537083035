"""The keystore's own calls beside what they cannot do without: the module's, by python-pkcs11's public methods.

Raw is what an application without a keystore would call: the same key, plaintext, sizes of IV and AAD, under the
module's lock, which a process with threads must hold; for suite 2 the host's AES-GCM belongs to it. Two ways to
compare, because they differ. "in turn": one call of each, again and again, so that the module's too comes after other
work, as in any program. "in loops": many calls of one, then of the other, so that the module has the processor's
caches to itself. What mounts' pools and migrations do, many keys in one call, is compared with as many calls of the
module. Warmed up first, like a process that stays: the blocks in which uses are reserved have full size.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from unittest import mock

from pkcs11 import Mechanism
from pkcs11.mechanisms import GCMParams

from benchlib.results import Comparison
from kmsfs.crypto.aead import gcm_open, gcm_seal
from kmsfs.crypto.entropy import NONCE_SIZE
from kmsfs.format.blob import Suite
from kmsfs.format.context import encode_context
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.wrapping import kdf_input

BUDGET = 0.7
CALLS = 2_048
BATCH = 32  # data keys in one call
WARM_UP = 25_000
DISTINCT_BLOBS = 500
REGIONS = {"eu-west-1": Suite.HSM_GCM, "eu-west-2": Suite.HSM_KDF}
CONTEXT = {"purpose": "bench"}
PLAIN = bytes(32)

Call = Callable[[], object]
Way = Callable[[Call, Call, int], tuple[float, float]]


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
    for _ in range(WARM_UP):
        keystore.encrypt(arn, PLAIN, CONTEXT)
    for name, ours, raw, size in _calls(keystore, region, arn):
        for way_name, way in WAYS.items():
            seconds = [way(ours, raw, CALLS // size) for _ in range(rounds)]
            yield Comparison(
                f"{name} in process, suite {int(suite)}, {way_name}, {CALLS} calls",
                BUDGET,
                {"kmsfs": [pair[0] for pair in seconds], "module": [pair[1] for pair in seconds]},
            )


def _calls(keystore: Keystore, region: str, arn: str) -> Iterator[tuple[str, Call, Call, int]]:
    """Yield each use: its name, our call, the module's, and how many data keys one of them is for."""
    seal, unseal = module_calls(keystore, region)
    blobs = cycle([keystore.encrypt(arn, PLAIN, CONTEXT).blob for _ in range(DISTINCT_BLOBS)])
    yield "Decrypt", lambda: keystore.decrypt(next(blobs), CONTEXT), unseal, 1
    yield "Encrypt", lambda: keystore.encrypt(arn, PLAIN, CONTEXT), seal, 1
    yield "GenerateDataKey", lambda: keystore.generate_data_key(arn, CONTEXT), seal, 1

    def batch() -> list[bytes]:
        return list(islice(blobs, BATCH))

    keys, contexts = [PLAIN] * BATCH, [CONTEXT] * BATCH
    seals, unseals = _repeated(seal), _repeated(unseal)
    yield "unwrap_data_keys", lambda: keystore.unwrap_data_keys(arn, batch(), contexts), unseals, BATCH
    yield "wrap_data_keys", lambda: keystore.wrap_data_keys(arn, keys, contexts), seals, BATCH
    yield "generate_data_keys", lambda: keystore.generate_data_keys(arn, contexts), seals, BATCH


def _repeated(call: Call) -> Call:
    def calls() -> None:
        for _ in range(BATCH):
            call()

    return calls


def module_calls(keystore: Keystore, region: str) -> tuple[Call, Call]:
    """Return the module's calls that sealing and opening cannot do without."""
    service = keystore._service(region)
    (entry,) = service.snapshot.materials.values()
    key, lock = service.hsm._keys[entry.material.material_id], service.hsm._module.lock
    nonce = bytes(entry.material.suite.nonce_size)

    def gcm(use: Callable[..., bytes], data: bytes) -> bytes:
        with lock:
            return use(data, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, aad, 128))

    def derived() -> bytes:
        with lock:
            return key.sign(kdf_input(entry.key.arn, nonce), mechanism=Mechanism.SHA256_HMAC)

    aad = entry.prefixes[entry.key.arn] + nonce + encode_context(CONTEXT)
    if entry.material.suite is Suite.HSM_KDF:
        iv = nonce[-NONCE_SIZE:]
        sealed = gcm_seal(derived(), iv, PLAIN, aad)
        return lambda: gcm_seal(derived(), iv, PLAIN, aad), lambda: gcm_open(derived(), iv, sealed, aad)
    return partial(gcm, key.encrypt, PLAIN), partial(gcm, key.decrypt, gcm(key.encrypt, PLAIN))


def _in_turn(ours: Call, raw: Call, count: int) -> tuple[float, float]:
    """Return the median of a call, as if all had been so: what else the machine does meets both alike."""
    clock = time.perf_counter
    by_us, by_module = [], []
    for _ in range(count):
        start = clock()
        raw()
        between = clock()
        ours()
        by_us.append(clock() - between)
        by_module.append(between - start)
    return count * median(by_us), count * median(by_module)


def _in_loops(ours: Call, raw: Call, count: int) -> tuple[float, float]:
    return _loop(ours, count), _loop(raw, count)


def _loop(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


WAYS: dict[str, Way] = {"in turn": _in_turn, "in loops": _in_loops}

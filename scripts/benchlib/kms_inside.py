"""The keystore's own calls beside what they cannot do without: the module's, by python-pkcs11's public methods.

Raw is what an application without a keystore would call: the same key, plaintexts and ciphertexts, sizes of IV and AAD,
a new IV for each encryption, under the module's lock, which a process with threads must hold; for suite 2 the host's
AES-GCM belongs to it. Two ways to compare, because they differ. "in turn": one call of each, again and again, so that
the module's too comes after other work, as in any program. "in loops": many calls of one, then of the other, so that
the module has the processor's caches to itself. Medians of both, in a process that was warmed up like one that stays:
the blocks in which uses are reserved have full size.

What a process does with keys by itself has rows of its own: a mount that opens a file (``unwrap``) or moves one to
another zone (``rewrap``), which are counted for the audit log; the pools of mounts, and migrations, which take many
keys in one call and one record. Each file has a context of its own, made in the call, as there. The other rows are
single calls, for each of which a record is on disk before it returns: what the server does for a request.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from unittest import mock

from pkcs11 import Mechanism
from pkcs11.mechanisms import GCMParams

from benchlib.results import Comparison
from kmsfs.crypto.aead import gcm_open, gcm_seal
from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.format.aad import file_context
from kmsfs.format.blob import Suite
from kmsfs.format.context import encode_context
from kmsfs.ids import FileId, TreeId
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.pool import FILE_ID_SIZE
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.wrapping import kdf_input

BUDGET = 0.7
CALLS = 2_048
LOOPS = 32  # in which they are made, so that a busy moment of the machine falls into few
BATCH = 32  # data keys in one call
WARM_UP = 25_000
DISTINCT = 500  # files, blobs
REGIONS = {"eu-west-1": Suite.HSM_GCM, "eu-west-2": Suite.HSM_KDF}
TREE = TreeId(bytes(16))
CONTEXT = dict(file_context(TREE, FileId(bytes(FILE_ID_SIZE))))  # as long as any file's
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
    ids = [FileId(random_bytes(FILE_ID_SIZE)) for _ in range(DISTINCT)]
    files = cycle([(file_id, keystore.rewrap(arn, PLAIN, _context(file_id)).blob) for file_id in ids])

    def unwrap() -> bytes:
        file_id, blob = next(files)
        return keystore.unwrap(blob, _context(file_id), ref=arn)

    yield "unwrap", unwrap, unseal, 1
    yield "rewrap", lambda: keystore.rewrap(arn, PLAIN, _context(next(files)[0])), seal, 1

    def contexts() -> list[Mapping[str, str]]:
        return [_context(file_id) for file_id, _ in islice(files, BATCH)]

    def unwrap_many() -> list[bytes | None]:
        some = list(islice(files, BATCH))
        blobs = [blob for _, blob in some]
        return keystore.unwrap_data_keys(arn, blobs, [_context(file_id) for file_id, _ in some])

    seals, unseals, keys = _repeated(seal), _repeated(unseal), [PLAIN] * BATCH
    yield "unwrap_data_keys", unwrap_many, unseals, BATCH
    yield "wrap_data_keys", lambda: keystore.wrap_data_keys(arn, keys, contexts()), seals, BATCH
    yield "generate_data_keys", lambda: keystore.generate_data_keys(arn, contexts()), seals, BATCH

    blobs = cycle([keystore.encrypt(arn, PLAIN, CONTEXT).blob for _ in range(DISTINCT)])
    yield "Decrypt", lambda: keystore.decrypt(next(blobs), CONTEXT), unseal, 1
    yield "Encrypt", lambda: keystore.encrypt(arn, PLAIN, CONTEXT), seal, 1
    yield "GenerateDataKey", lambda: keystore.generate_data_key(arn, CONTEXT), seal, 1


def _context(file_id: FileId) -> Mapping[str, str]:
    return file_context(TREE, file_id)


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
    head, context = entry.prefixes[entry.key.arn], encode_context(CONTEXT)

    def gcm(use: Callable[..., bytes], nonce: bytes, data: bytes) -> bytes:
        param = GCMParams(nonce, head + nonce + context, 128)
        with lock:
            return use(data, mechanism=Mechanism.AES_GCM, mechanism_param=param)

    def derived(use: Callable[..., bytes], nonce: bytes, data: bytes) -> bytes:
        with lock:
            one_time = key.sign(kdf_input(entry.key.arn, nonce), mechanism=Mechanism.SHA256_HMAC)
        return use(one_time, nonce[-NONCE_SIZE:], data, head + nonce + context)

    if entry.material.suite is Suite.HSM_KDF:
        encrypt, decrypt = partial(derived, gcm_seal), partial(derived, gcm_open)
    else:
        encrypt, decrypt = partial(gcm, key.encrypt), partial(gcm, key.decrypt)
    nonces = [random_bytes(entry.material.suite.nonce_size) for _ in range(DISTINCT)]
    sealed = cycle([(nonce, encrypt(nonce, PLAIN)) for nonce in nonces])
    return lambda: encrypt(random_bytes(len(nonces[0])), PLAIN), lambda: decrypt(*next(sealed))


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
    """Return the median of a loop of calls of one, then of the other, as if all loops had been so."""
    pairs = [(_loop(ours, count // LOOPS), _loop(raw, count // LOOPS)) for _ in range(LOOPS)]
    by_us, by_module = zip(*pairs, strict=True)
    return LOOPS * median(by_us), LOOPS * median(by_module)


def _loop(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


WAYS: dict[str, Way] = {"in turn": _in_turn, "in loops": _in_loops}

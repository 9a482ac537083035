"""Data keys for the files of one mount: new ones from the pool, wrapped ones through the cache.

A fast HSM is called inline, a slow one in a thread: never more than one call at a time, and the event loop goes on.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio
import trio.lowlevel

from kmsfs.crypto.kdf import equal
from kmsfs.envelope.file_key import (
    OpenedHeader,
    derive_file_keys,
    gravest,
    newest_unverified,
    open_header,
)
from kmsfs.errors import (
    FormatError,
    IntegrityError,
    InvalidCiphertextError,
    InvalidRequestError,
    KmsfsError,
)
from kmsfs.format import aad
from kmsfs.format.blob import parse_blob_head
from kmsfs.keystore.audit import DONE
from kmsfs.keystore.pool import DataKeyPool, ReadyKey
from kmsfs.keystore.replica import Replica
from kmsfs.tree.rekey import heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kmsfs.format.header import FileHeader
    from kmsfs.ids import KeyArn, TreeId
    from kmsfs.keystore.data_key_cache import DataKeyCache
    from kmsfs.keystore.service import Keystore

log = logging.getLogger(__name__)

_T = TypeVar("_T")
OPEN_FILE: Final = "kmsfs:OpenFile"
CREATE_FILE: Final = "kmsfs:CreateFile"
MOVE_FILE: Final = "kmsfs:MoveFile"
CREATE_ZONE: Final = "kmsfs:CreateZone"
_FILL_STEP = 16  # keys made between two checkpoints: under a millisecond on a fast HSM


class FileKeys:
    """Where a mount gets its data keys."""

    def __init__(self, keystore: Keystore, cache: DataKeyCache, tree_id: TreeId, *, serving: KeyArn) -> None:
        """``serving`` is the key that opened the tree."""
        self._keystore = keystore
        self._cache = cache
        self._tree_id = tree_id
        self.serving = serving  # the key that opened the last file
        self.epoch = 0  # a data key that was asked for in an earlier one may be under old material
        self._pools: dict[tuple[KeyArn, ...], DataKeyPool] = {}
        self._replicas: dict[KeyArn, Replica] = {}
        self._unreachable: dict[str, str] = {}  # by region, as it was logged
        self._lane = trio.CapacityLimiter(1)
        self._fill_wanted = trio.Event()
        self._uses: dict[tuple[int, str, KeyArn, str], int] = {}  # by user, action, key and result

    def serve_under(self, key_arns: Sequence[KeyArn]) -> None:
        """The tree is under other keys: until the next file is opened, the nearest of them serves."""
        serving = {
            self._keystore.serving_key(key_arn): self._keystore.distance(key_arn) for key_arn in key_arns
        }
        if self.serving not in serving:
            self.serving = min(serving, key=serving.__getitem__)

    async def take(self, wanted: tuple[KeyArn, ...], uid: int, action: str = CREATE_FILE) -> ReadyKey:
        """A data key for a new file. No checkpoint as long as the pool has one or the HSMs are fast."""
        pool = self.pool(wanted)
        try:
            ready = await self._run(pool.callees(), pool.take) if not len(pool) else pool.take()
        except KmsfsError as error:
            self._count(uid, action, wanted[0], type(error).__name__)
            raise error.about("key", wanted[0]) from None
        self._count(uid, action, wanted[0])
        if pool.low:
            self._fill_wanted.set()
        return ready

    async def require(self, wanted: tuple[KeyArn, ...], uid: int) -> None:
        """Raise unless files can be made under these keys of a new zone now, and opened again."""
        if self._keystore.resolve(wanted[0]).arn != wanted[0]:
            raise InvalidRequestError(f"{wanted[0]} is not the ARN of a key")
        try:
            self._keystore.check_usable(wanted[0], pairs=aad.files_context(self._tree_id))
        except KmsfsError as error:
            self._count(uid, CREATE_ZONE, wanted[0], type(error).__name__)
            raise
        self.give_back(await self.take(wanted, uid, CREATE_ZONE))

    def pool(self, wanted: tuple[KeyArn, ...]) -> DataKeyPool:
        """The pool of a zone's CMK and the replicas'."""
        pool = self._pools.get(wanted)
        if pool is None:
            replicas = [self._replica(key_arn) for key_arn in wanted[1:]]
            pool = self._pools[wanted] = DataKeyPool(self._keystore, wanted[0], self._tree_id, replicas)
            self._fill_wanted.set()
        return pool

    def _replica(self, key_arn: KeyArn) -> Replica:
        replica = self._replicas.get(key_arn)
        if replica is None:
            replica = self._replicas[key_arn] = Replica(self._keystore, key_arn, self._tree_id)
        return replica

    @property
    def ready_count(self) -> int:
        """How many files can be made without the HSM, over all pools."""
        return sum(map(len, self._pools.values()))

    def give_back(self, ready: ReadyKey) -> None:
        """A key that was taken for a file that was not written. No checkpoint."""
        pool = self._pools.get(ready.wanted)
        if pool is not None:  # else nobody wants it any more
            pool.give_back(ready)

    def is_outdated(self, ready: ReadyKey) -> bool:
        """Whether a CMK was given new material since the key was made. One that cannot be used now is not asked for."""
        if not ready.wanted:
            return True
        try:
            return not self.pool(ready.wanted).holds_good(ready)
        except KmsfsError:
            return False

    def forget_pools(self) -> None:
        """Forget all ready keys: files are wanted under other keys from now on. No checkpoint."""
        self._pools.clear()
        self._replicas.clear()

    def check_slots(self, header: FileHeader, uid: int) -> None:
        """Raise unless some slot of an open file may be used now. Microseconds, no HSM call."""
        context = aad.file_context(self._tree_id, header.file_id)
        problems: list[tuple[KmsfsError, KeyArn]] = []
        for blob in self._nearest_first(header.slots):
            try:
                key_arn = parse_blob_head(blob).key_arn
                self._keystore.check_usable(key_arn, pairs=context)
            except FormatError:  # another slot has opened it
                continue
            except KmsfsError as error:
                problems.append((error.about("key", key_arn), key_arn))
            else:
                self._count(uid, OPEN_FILE, key_arn)
                return
        problem, key_arn = problems[0]
        self._count(uid, OPEN_FILE, key_arn, type(problem).__name__)
        raise problem.about("file", header.file_id.hex())

    async def open(self, raw: bytes, uid: int) -> OpenedHeader:
        """Authenticate a file's header. No checkpoint when the data key is cached or the HSM is fast."""
        tried: list[KeyArn] = []
        try:
            opened = await self._open(raw, tried)
        except KmsfsError as error:
            if tried:
                self._count(uid, OPEN_FILE, tried[-1], type(error).__name__)
            raise _about_file(error, raw) from None
        self._count(uid, OPEN_FILE, tried[-1])
        self.serving = tried[-1]
        return opened

    async def _open(self, raw: bytes, tried: list[KeyArn]) -> OpenedHeader:
        try:
            return open_header(raw, partial(self._unwrap, tried, wait=False))
        except _SlowHsmError:
            call = partial(open_header, raw, partial(self._unwrap, tried, wait=True))
            return await trio.to_thread.run_sync(call, limiter=self._lane)

    def _unwrap(self, tried: list[KeyArn], header: FileHeader, *, wait: bool) -> bytes:
        """The data key from the first slot that yields it; _SlowHsmError if that needs a wait that is not allowed."""
        context = aad.file_context(self._tree_id, header.file_id)
        problems: list[KmsfsError] = []
        for blob in self._nearest_first(header.slots):
            try:
                key_arn = parse_blob_head(blob).key_arn
                tried.append(self._keystore.serving_key(key_arn))
                self._keystore.check_usable(key_arn, pairs=context)
                if wait:
                    self._keystore.measure([key_arn])
                if wait or self._keystore.is_fast(key_arn):
                    return self._cache.unwrap(blob, context, key_arn)
            except (FormatError, InvalidCiphertextError) as error:
                problems.append(
                    IntegrityError(
                        f"file {header.file_id.hex()}: a slot of its header does not open ({error})"
                    )
                )
                continue
            except KmsfsError as error:
                problems.append(error.about("key", key_arn))
                continue
            cached = self._cache.peek(blob, context)
            if cached is None:
                raise _SlowHsmError
            return cached
        raise gravest(problems)

    def _nearest_first(self, slots: tuple[bytes, ...]) -> Sequence[bytes]:
        return slots if len(slots) == 1 else sorted(slots, key=self._distance)

    def _distance(self, blob: bytes) -> float:
        try:
            return self._keystore.distance(parse_blob_head(blob).key_arn)
        except FormatError:
            return math.inf

    async def rewrap(self, header: FileHeader, wanted: tuple[KeyArn, ...], uid: int) -> tuple[bytes, ...]:
        """Slots of an authentic header's data key under other keys; those that are there already are kept.

        As for a new file, the first key must answer, and a replica that does not is left out.
        """
        call = partial(self._rewrap, header, wanted)
        try:
            try:
                fast = self._are_fast([head.key_arn for head in heads(header.slots)] + list(wanted))
            except KmsfsError:  # of a key that may not be needed
                fast = False
            slots = call() if fast else await trio.to_thread.run_sync(call, limiter=self._lane)
        except KmsfsError as error:
            self._count(uid, MOVE_FILE, wanted[0], type(error).__name__)
            raise error.about("file", header.file_id.hex()) from None
        self._count(uid, MOVE_FILE, wanted[0])
        return slots

    def _rewrap(self, header: FileHeader, wanted: tuple[KeyArn, ...]) -> tuple[bytes, ...]:
        context = aad.file_context(self._tree_id, header.file_id)
        self._keystore.check_usable(wanted[0], "ReEncryptTo", context)
        data_key = cache(partial(self._data_key, header))
        slots = [self._kept(header, wanted[0]) or self._keystore.rewrap(wanted[0], data_key(), context).blob]
        for key_arn in wanted[1:]:
            if self._keystore.serving_key(key_arn) in {head.key_arn for head in heads(slots)}:
                continue  # it stands in for a key whose region is away
            kept = self._kept(header, key_arn)
            wrapped = None if kept else self._replica(key_arn).wrap([data_key()], [context])
            slots += [kept] if kept else [slot.blob for slot in wrapped or ()]
        return tuple(slots)

    def _data_key(self, header: FileHeader) -> bytes:
        data_key = self._unwrap([], header, wait=True)
        keys = derive_file_keys(data_key, header.file_id, header.suite, header.chunk_size)
        if not equal(keys.commitment, header.commitment):  # a slot under it would be of no use
            raise IntegrityError(f"file {header.file_id.hex()}: a slot of its header holds another data key")
        return data_key

    def _kept(self, header: FileHeader, key_arn: KeyArn) -> bytes | None:
        """The slot under a key's current material, or under any if the key cannot be asked for it."""
        material_id = None
        with suppress(KmsfsError):
            material_id = self._keystore.resolve(key_arn).current_material_id
        for blob in header.slots:
            head = parse_blob_head(blob)
            if head.key_arn == key_arn and material_id in (None, head.material_id):
                return blob
        return None

    async def _run(self, callees: list[KeyArn], call: Callable[[], _T]) -> _T:
        if self._are_fast(callees):
            return call()

        def measured() -> _T:
            self._keystore.measure(callees)
            return call()

        return await trio.to_thread.run_sync(measured, limiter=self._lane)

    def _are_fast(self, callees: list[KeyArn]) -> bool:
        return all(self._keystore.is_fast(key_arn) for key_arn in callees)

    def _count(self, uid: int, action: str, key_arn: KeyArn, result: str = DONE) -> None:
        """Count a use for the audit log. A dictionary's own pace; only on the event loop."""
        kind = uid, action, self._keystore.serving_key(key_arn), result
        self._uses[kind] = self._uses.get(kind, 0) + 1

    def report_uses(self) -> None:
        """Hand over what was counted."""
        context = aad.files_context(self._tree_id)
        uses, self._uses = self._uses, {}
        for (uid, action, key_arn, result), count in uses.items():
            self._keystore.audits.count(key_arn, action, context, uid=uid, result=result, uses=count)

    async def keep_audit(self, interval_s: float) -> None:
        """Record what files were opened and keep the audit log durable, for ever."""
        while True:
            await trio.sleep(interval_s)
            self.report_uses()
            await trio.to_thread.run_sync(self._keystore.audits.tend)

    async def keep_filled(self) -> None:
        """Top the pools up in the background, for ever."""
        while True:
            await self._fill_wanted.wait()
            self._fill_wanted = trio.Event()
            for pool in list(self._pools.values()):
                try:
                    # With a slow HSM, who waits for a key waits for at most one that is made ahead of time.
                    step = _FILL_STEP if self._are_fast(pool.callees()) else 1
                    while self._pools.get(pool.wanted) is pool:
                        if not await self._run(pool.callees(), partial(pool.fill, step)):
                            break
                        await trio.lowlevel.checkpoint()
                except KmsfsError:
                    continue  # whoever takes a key gets the reason

    async def follow(self, interval_s: float) -> None:
        """Take over what other processes change in the keystore, for ever; forget keys that may not be used."""
        told = ""
        while True:
            await trio.sleep(interval_s)
            self._cache.expire()
            try:
                await trio.to_thread.run_sync(self._refresh)
            except KmsfsError as error:  # every use is refused, with this reason, until it passes
                if str(error) != told:
                    log.error("cannot follow the keystore: %s", error)
                told = str(error)
            else:
                told = ""
            self._forget_unusable()
            self._tell_unreachable()

    def _refresh(self) -> None:
        self._keystore.measure_again()
        self._keystore.refresh()

    def unusable(self, key_arns: Iterable[KeyArn]) -> dict[KeyArn, str]:
        """Which of these keys open no file now, and why."""
        found = {}
        for key_arn in key_arns:
            reason = self._keystore.unreachable(key_arn)
            if not reason:
                try:
                    self._keystore.check_usable(key_arn, pairs=aad.files_context(self._tree_id))
                except KmsfsError as error:
                    reason = str(error)
            if reason:
                found[key_arn] = reason
        return found

    def _tell_unreachable(self) -> None:
        """Log which regions stopped or began to answer."""
        now = {}
        used = self._cache.key_arns().union(*self._pools)
        for key_arn in used:
            reason = self._keystore.unreachable(key_arn)
            if reason:
                now[key_arn.split(":")[3]] = reason
        for region in now.keys() - self._unreachable.keys():
            log.warning("region %s does not answer: %s", region, now[region])
        for region in self._unreachable.keys() - now.keys():
            log.info("region %s answers again", region)
        self._unreachable = now

    def _forget_unusable(self) -> None:
        """Forget the keys of CMKs that may not be used now, clear and wrapped."""
        for key_arn in self._cache.key_arns():
            try:
                self._keystore.check_usable(key_arn, pairs=aad.files_context(self._tree_id))
            except KmsfsError:
                self._cache.purge(key_arn)
        for pool in self._pools.values():
            with suppress(KmsfsError):  # whoever takes a key gets the reason
                pool.weed()
                if pool.low:
                    self._fill_wanted.set()


def _about_file(error: KmsfsError, raw: bytes) -> KmsfsError:
    """The same error, naming the file as far as its header can be parsed."""
    try:
        return error.about("file", newest_unverified(raw).file_id.hex())
    except (FormatError, IntegrityError):
        return error


class _SlowHsmError(Exception):
    """Control flow: the HSM is needed, and too slow to be called on the event loop."""

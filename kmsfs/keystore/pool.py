"""Data keys made ahead of time, so that creating a file does not wait for the HSM.

One pool for each tree and combination of CMKs that files are to be wrapped under: the zone's, without which there is no
data key, and those of the replicas, of which one that does not answer is left out (replica.py). ``take`` looks at the
state and material of every key before it hands anything out: a pool whose zone's key is disabled gives nothing, and
after a rotation nothing under the old material.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.format.aad import file_context, files_context
from kmsfs.ids import FileId, KeyArn, MaterialId, TreeId
from kmsfs.keystore.replica import Replica
from kmsfs.keystore.results import EncryptResult, GeneratedDataKey
from kmsfs.keystore.service import Keystore

HIGH_WATERMARK: Final = 500
LOW_WATERMARK: Final = 150
FILE_ID_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class ReadyKey:
    """A file id with its data key, clear and wrapped."""

    file_id: FileId
    data_key: bytes = field(repr=False)
    wanted: tuple[KeyArn, ...]  # what it was to be wrapped under: names the pool that it is from
    slots: tuple[EncryptResult, ...]  # in the order of ``wanted``; without the replicas that did not answer

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """What the slots of a file's header hold."""
        return tuple(slot.blob for slot in self.slots)

    def spent(self) -> "ReadyKey":
        """Return the same for the file that has it and no other: no pool takes it back, and it is soon exchanged."""
        return replace(self, wanted=())


class DataKeyPool:
    """Ready keys under one combination of CMKs for one tree. Thread-safe."""

    def __init__(
        self, keystore: Keystore, key_arn: KeyArn, tree_id: TreeId, replicas: Sequence[Replica] = ()
    ) -> None:
        self._keystore = keystore
        self._key_arn = key_arn
        self._tree_id = tree_id
        self._replicas = tuple(replicas)
        self.wanted = (key_arn, *(replica.key_arn for replica in replicas))
        self._lock = Lock()
        self._ready: deque[ReadyKey] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def low(self) -> bool:
        """Whether the pool should be filled."""
        return len(self._ready) < LOW_WATERMARK

    def take(self) -> ReadyKey:
        """Return a ready key, made now if none is left; raises if the zone's CMK is not usable."""
        current = self._usable_material()
        with self._lock:
            while self._ready:
                ready = self._ready.popleft()
                if _is_under(ready, current):
                    return ready
        return self._make(1)[0]

    def give_back(self, ready: ReadyKey) -> None:
        """Take back a key that was not used after all."""
        with self._lock:
            self._ready.appendleft(ready)

    def holds_good(self, ready: ReadyKey) -> bool:
        """Whether ``take`` would hand this key out; raises if the zone's CMK is not usable."""
        return _is_under(ready, self._usable_material())

    def fill(self, max_count: int) -> int:
        """Make up to ``max_count`` keys until the high watermark is reached; return how many were made."""
        count = min(max_count, HIGH_WATERMARK - len(self._ready))
        if count <= 0:
            return 0
        made = self._make(count)
        with self._lock:
            self._ready.extend(made)
        return count

    def weed(self) -> None:
        """Forget the ready keys that ``take`` would not hand out; raises if the zone's CMK is not usable."""
        current = self._usable_material()
        with self._lock:
            self._ready = deque(ready for ready in self._ready if _is_under(ready, current))

    def drain(self) -> None:
        """Forget all ready keys."""
        with self._lock:
            self._ready.clear()

    def callees(self) -> list[KeyArn]:
        """Return the CMKs that making a key asks now."""
        return [self._key_arn, *(replica.key_arn for replica in self._replicas if replica.material())]

    def _usable_material(self) -> dict[KeyArn, MaterialId | None]:
        """Return what a key that is made now is wrapped under. No HSM call."""
        try:
            self._keystore.check_usable(self._key_arn, "GenerateDataKey", files_context(self._tree_id))
        except BaseException:
            self.drain()
            raise
        key = self._keystore.resolve(self._keystore.serving_key(self._key_arn))
        current = {key.arn: key.current_material_id}
        for replica in self._replicas:
            material = replica.material()
            if material is not None:
                current[self._keystore.serving_key(replica.key_arn)] = material
        return current

    def _make(self, count: int) -> list[ReadyKey]:
        file_ids = [FileId(random_bytes(FILE_ID_SIZE)) for _ in range(count)]
        contexts = [file_context(self._tree_id, file_id) for file_id in file_ids]
        made = self._keystore.generate_data_keys(self._key_arn, contexts)
        data_keys = [key.plaintext for key in made]
        columns: dict[KeyArn, Sequence[EncryptResult]] = {made[0].key_arn: [_slot(key) for key in made]}
        for replica in self._replicas:
            if self._keystore.serving_key(replica.key_arn) in columns:
                continue  # it stands in for a key whose region is away
            wrapped = replica.wrap(data_keys, contexts)
            if wrapped is not None:
                columns[wrapped[0].key_arn] = wrapped
        return [
            ReadyKey(file_id, data_key, self.wanted, slots)
            for file_id, data_key, slots in zip(
                file_ids, data_keys, zip(*columns.values(), strict=True), strict=True
            )
        ]


def _slot(made: GeneratedDataKey) -> EncryptResult:
    return EncryptResult(made.blob, made.key_arn, made.material_id)


def _is_under(ready: ReadyKey, current: Mapping[KeyArn, MaterialId | None]) -> bool:
    return len(ready.slots) == len(current) and all(
        current.get(slot.key_arn) == slot.material_id for slot in ready.slots
    )

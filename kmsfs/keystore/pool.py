"""Data keys made ahead of time, so that creating a file does not wait for the HSM.

One pool for each CMK and tree. ``take`` looks at the key's state and material before it hands anything out: a
disabled key's pool gives nothing, and after a rotation nothing under the old material.
"""

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.format.aad import file_context, files_context
from kmsfs.ids import FileId, KeyArn, MaterialId, TreeId
from kmsfs.keystore.model import GeneratedDataKey
from kmsfs.keystore.service import Keystore

HIGH_WATERMARK: Final = 500
LOW_WATERMARK: Final = 150
FILE_ID_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class ReadyKey:
    """A file id with its data key, clear and wrapped."""

    file_id: FileId
    data_key: bytes = field(repr=False)
    blob: bytes
    material_id: MaterialId


class DataKeyPool:
    """Ready keys of one CMK for one tree. Thread-safe."""

    def __init__(self, keystore: Keystore, key_arn: KeyArn, tree_id: TreeId) -> None:
        self._keystore = keystore
        self._key_arn = key_arn
        self._tree_id = tree_id
        self._lock = Lock()
        self._ready: deque[ReadyKey] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def low(self) -> bool:
        """Whether the pool should be filled."""
        return len(self._ready) < LOW_WATERMARK

    def take(self) -> ReadyKey:
        """Return a ready key, made now if none is left; raises if the CMK is not usable."""
        try:
            self._keystore.check_usable(self._key_arn, "GenerateDataKey", files_context(self._tree_id))
        except BaseException:
            self.drain()
            raise
        current = self._keystore.resolve(self._key_arn).current_material_id
        with self._lock:
            while self._ready:
                ready = self._ready.popleft()
                if ready.material_id == current:
                    return ready
        return self._make()

    def give_back(self, ready: ReadyKey) -> None:
        """Take back a key that was not used after all."""
        with self._lock:
            self._ready.appendleft(ready)

    def fill(self, max_count: int) -> int:
        """Make up to ``max_count`` keys until the high watermark is reached; return how many were made."""
        count = min(max_count, HIGH_WATERMARK - len(self._ready))
        if count <= 0:
            return 0
        file_ids = [FileId(random_bytes(FILE_ID_SIZE)) for _ in range(count)]
        contexts = [file_context(self._tree_id, file_id) for file_id in file_ids]
        made = self._keystore.generate_data_keys(self._key_arn, contexts)
        with self._lock:
            self._ready.extend(map(_ready, file_ids, made))
        return count

    def drain(self) -> None:
        """Forget all ready keys."""
        with self._lock:
            self._ready.clear()

    def _make(self) -> ReadyKey:
        file_id = FileId(random_bytes(FILE_ID_SIZE))
        made = self._keystore.generate_data_key(self._key_arn, file_context(self._tree_id, file_id))
        return _ready(file_id, made)


def _ready(file_id: FileId, made: GeneratedDataKey) -> ReadyKey:
    return ReadyKey(file_id, made.plaintext, made.blob, made.material_id)

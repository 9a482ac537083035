"""How often a suite 1 key has encrypted: counted, so that random IVs stay below NIST's 2^32 limit.

Uses are reserved in the metadata before they are made, in blocks: a crash loses a block but never counts too
few. The first block of a process is small, so that thousands of short commands do not eat the limit up.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final

from kmsfs.errors import KeyExhaustedError, KeyNotFoundError
from kmsfs.ids import MaterialId
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.rows import material_values
from kmsfs.keystore.snapshot import Snapshot

FIRST_BLOCK: Final = 1 << 6
LARGEST_BLOCK: Final = 1 << 16
USE_LIMIT: Final = (1 << 32) - LARGEST_BLOCK  # SP 800-38D, 8.3, less one block


class UseCounter:
    """The uses that this process may still make of one key material. Thread-safe."""

    def __init__(self, material_id: MaterialId, ledger: Ledger) -> None:
        self._material_id = material_id
        self._ledger = ledger
        self._lock = Lock()
        self._left = 0
        self._block = FIRST_BLOCK

    def take(self) -> None:
        """Count one use, or raise KeyExhaustedError: the key then needs new material."""
        with self._lock:
            if not self._left:
                self._ledger.commit(_reserve(self._material_id, self._block))
                self._left = self._block
                self._block = min(self._block * 4, LARGEST_BLOCK)
            self._left -= 1


class UseCounters(dict[MaterialId, UseCounter]):
    """The counters of a region's materials, each made when it is first asked for. Thread-safe."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __missing__(self, material_id: MaterialId) -> UseCounter:
        return self.setdefault(material_id, UseCounter(material_id, self._ledger))


def _reserve(material_id: MaterialId, count: int) -> Callable[[Snapshot], Changes]:
    def decide(snapshot: Snapshot) -> Changes:
        entry = snapshot.materials.get(material_id)
        if entry is None:
            raise KeyNotFoundError(f"key material {material_id.hex()} was destroyed: its key is deleted")
        reserved = snapshot.uses_reserved[material_id] + count
        if reserved > USE_LIMIT:
            raise KeyExhaustedError(f"key material {material_id.hex()} has been used up to its limit")
        values = material_values(snapshot.region, entry.key.key_id, entry.material, reserved)
        return Changes(puts=[("materials", values)])

    return decide

"""A CMK that data keys are wrapped under besides the zone's, so that a file opens where either HSM is alive.

A replica never stops a file from being made: what it cannot wrap now is left out, and a later rewrap adds it. Why it
is left out is logged once, not for each key.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Final

from kmsfs.errors import HsmError, KmsfsError
from kmsfs.format.aad import files_context
from kmsfs.ids import KeyArn, MaterialId, TreeId
from kmsfs.keystore.results import EncryptResult
from kmsfs.keystore.service import Keystore

RETRY_S: Final = 30.0  # how soon a key that its HSM refused, though all looked well, is tried again

log = logging.getLogger(__name__)


class Replica:
    """One CMK of a tree's replicas. Thread-safe."""

    def __init__(self, keystore: Keystore, key_arn: KeyArn, tree_id: TreeId) -> None:
        self.key_arn = key_arn
        self._keystore = keystore
        self._pairs = files_context(tree_id)
        self._lock = Lock()
        self._told = ""  # why it is left out, as it was logged
        self._refused = ""
        self._refused_at = 0.0

    def material(self) -> MaterialId | None:
        """Return the material that ``wrap`` would use now; None if the key is left out. No HSM call."""
        if self._refused and time.monotonic() - self._refused_at < RETRY_S:
            return None
        away = self._keystore.unreachable(self.key_arn)
        if away:
            self._tell(away)
            return None
        try:
            self._keystore.check_usable(self.key_arn, "Encrypt", self._pairs)
            return self._keystore.resolve(self._keystore.serving_key(self.key_arn)).current_material_id
        except KmsfsError as error:
            self._tell(str(error))
            return None

    def wrap(
        self, data_keys: Sequence[bytes], contexts: Sequence[Mapping[str, str]]
    ) -> list[EncryptResult] | None:
        """Wrap every data key under the CMK; None if it is left out."""
        if self.material() is None:
            return None
        try:
            wrapped = self._keystore.wrap_data_keys(self.key_arn, data_keys, contexts)
        except HsmError as error:  # the region is measured again until it answers
            self._tell(str(error))
            return None
        except KmsfsError as error:
            self._refused, self._refused_at = str(error), time.monotonic()
            self._tell(self._refused)
            return None
        self._refused = ""
        self._tell("")
        return wrapped

    def _tell(self, reason: str) -> None:
        with self._lock:
            if reason == self._told:
                return
            self._told = reason
        if reason:
            log.warning("new files are not wrapped under the replica's key %s: %s", self.key_arn, reason)
        else:
            log.info("new files are wrapped under the replica's key %s again", self.key_arn)

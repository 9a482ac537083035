"""On whose behalf a process uses keys when no request says so: the account's root, or the principal that mounts.

The root is asked for permission like everybody: a key whose policy trusts no one is used by no one, at the command
line neither. What only shows keys is not asked for; nor is what the owner of the token does as such.
"""

from collections.abc import Callable
from typing import Final

from kmsfs.ids import KeyId
from kmsfs.keystore.access import via_service
from kmsfs.keystore.authorize import NO_CONTEXT, Caller, time_context
from kmsfs.keystore.model import KeyManager
from kmsfs.keystore.policy.context import merge
from kmsfs.keystore.policy.grants import Pairs
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.snapshot import Snapshot

SERVER: Final = "server"  # it decides about each request by itself
_DIRECT: Final = frozenset({"cli", SERVER})
_OWN: Final = "kmsfs:"  # names of what AWS does not have
#: Decided elsewhere, because grants have a say: in who may hand them on, and who may retire them.
_ELSEWHERE: Final = frozenset({"CreateGrant", "RetireGrant"})


class Standing:
    """The permissions of one process. ``via`` is what it is: all but the command line is the file system."""

    def __init__(self, name: str, via: str, now: Callable[[], float]) -> None:
        self.name = name
        self.asks = via != SERVER
        self._through_files = via not in _DIRECT
        self._now = now

    def caller(self, region: str) -> Caller:
        """Return who asks in that region."""
        return Caller(self.name, self._circumstances(region))

    def holds(self, snapshot: Snapshot, action: str, key_id: KeyId) -> bool:
        """Whether ``require`` has nothing to ask while the metadata are these."""
        return not self.asks or (self.name, action, key_id) in snapshot.standing

    def require(
        self,
        service: RegionService,
        action: str,
        pairs: Pairs,
        key_id: KeyId,
        parameters: Context = NO_CONTEXT,
    ) -> None:
        """Raise AccessDeniedError unless this process may do ``action`` with the key, if that is there for people.

        ``parameters`` are the condition keys that stand for what else is asked for.
        """
        snapshot = service.ledger.latest or service.ledger.reload()
        if self.holds(snapshot, action, key_id):
            return
        key = snapshot.keys.get(key_id)
        if key is None or key.manager is KeyManager.OWNED:
            return
        if action in _ELSEWHERE or action.startswith(_OWN):
            return
        service.authorizer.require_standing(
            self.name,
            action,
            key,
            circumstances=merge(self._circumstances(service.config.region), parameters),
            pairs=pairs,
        )

    def _circumstances(self, region: str) -> Context:
        found = {**time_context(self._now()), "aws:requestedregion": (region,)}
        if self._through_files:
            found["kms:viaservice"] = (via_service(region),)
        return found

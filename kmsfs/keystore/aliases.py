"""The aliases of one region: names that point at its keys, each changed in one commit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kmsfs.errors import AccessDeniedError, AliasesUsedUpError, AlreadyExistsError, InvalidRequestError
from kmsfs.ids import KeyId
from kmsfs.keystore.arn import alias_arn, check_alias
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import AliasEntry, KeyManager, KeyMetadata, RegionConfig
from kmsfs.keystore.rows import alias_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.transitions import Operation, next_state

MAX_ALIASES: Final = 50  # of one key


class Aliases:
    """What may be done with a region's aliases. Thread-safe."""

    def __init__(self, config: RegionConfig, ledger: Ledger, now: Callable[[], float]) -> None:
        self._config = config
        self._ledger = ledger
        self._now = now

    def create(self, name: str, key_id: KeyId) -> AliasEntry:
        """Point a new alias at a key."""
        check_alias(name)

        def decide(snapshot: Snapshot) -> Changes:
            require_free(snapshot, name)
            _require_target(snapshot, name, key_id)
            return Changes(
                puts=[("aliases", alias_values(new_alias(self._config, name, key_id, self._now())))]
            )

        return self._ledger.commit(decide).aliases[name]

    def update(self, name: str, key_id: KeyId) -> AliasEntry:
        """Point an alias at another key."""
        check_alias(name)

        def decide(snapshot: Snapshot) -> Changes:
            alias = snapshot.alias(name)
            _require_target(snapshot, name, key_id)
            _require_alike(snapshot, alias, key_id)
            moved = replace(alias, target_key_id=key_id, updated_at=self._now())
            return Changes(puts=[("aliases", alias_values(moved))])

        return self._ledger.commit(decide).aliases[name]

    def delete(self, name: str) -> None:
        """Remove an alias, of a name that was checked; its key stays."""

        def decide(snapshot: Snapshot) -> Changes:
            snapshot.alias(name)
            return Changes(deletes=[("aliases", name)])

        self._ledger.commit(decide)


def new_alias(config: RegionConfig, name: str, key_id: KeyId, now: float) -> AliasEntry:
    """Return the entry of an alias that is made now."""
    return AliasEntry(name, alias_arn(config.region, config.account, name), config.region, key_id, now, now)


def require_free(snapshot: Snapshot, name: str) -> None:
    """Raise AlreadyExistsError if the region has an alias of that name."""
    if name in snapshot.aliases:
        raise AlreadyExistsError(
            f"{name} exists already in region {snapshot.region}",
            hint="kmsfs alias update points it elsewhere",
        )


def changeable(snapshot: Snapshot, key_id: KeyId) -> KeyMetadata:
    """Return the CMK, or raise AccessDeniedError if it is not the customer's to change."""
    key = snapshot.shown_key(key_id)
    if key.manager is not KeyManager.CUSTOMER:
        raise AccessDeniedError(
            f"key {key.arn} is a managed key: it can be seen and not changed",
            hint="kmsfs key create makes one",
        )
    return key


def _require_target(snapshot: Snapshot, name: str, key_id: KeyId) -> None:
    key = changeable(snapshot, key_id)
    next_state(key.state, Operation.POINT_ALIAS, key.arn)
    others = [other for other in snapshot.aliases.values() if other.target_key_id == key_id]
    if len([other for other in others if other.name != name]) >= MAX_ALIASES:
        raise AliasesUsedUpError(f"key {key.arn} has {MAX_ALIASES} aliases already")


def _require_alike(snapshot: Snapshot, alias: AliasEntry, key_id: KeyId) -> None:
    """Refuse to give what uses an alias a key that is for something else."""
    old, new = snapshot.keys.get(alias.target_key_id), snapshot.key(key_id)
    if old is not None and old.usage is not new.usage:
        raise InvalidRequestError(
            f"{alias.name} names a key for {old.usage.value}, and key {new.arn} is for {new.usage.value}",
            hint="delete the alias and create it anew",
        )

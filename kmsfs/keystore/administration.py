"""What people do with keys and aliases, apart from using them: the part of ``Keystore`` for it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from kmsfs.errors import InvalidRequestError, KeyInUseError
from kmsfs.ids import TreeId
from kmsfs.keystore import known_trees, tags
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.arn import check_alias
from kmsfs.keystore.lifecycle import DEFAULT_PERIOD_DAYS, MAX_WINDOW_DAYS
from kmsfs.keystore.model import AliasEntry, KeyManager, KeyMetadata
from kmsfs.keystore.region import MANAGED_ALIAS, RegionService
from kmsfs.keystore.regions import Regions
from kmsfs.keystore.transitions import Operation, next_state

MAX_DESCRIPTION_LENGTH = 8192


class Administration(Regions):
    """Keys and aliases, by reference."""

    def create_key(
        self,
        region: str,
        *,
        description: str = "",
        alias: str | None = None,
        key_tags: Sequence[tuple[str, str]] = (),
        policy: str | None = None,
    ) -> KeyMetadata:
        """Generate a CMK in the region's token, with an alias, tags and a policy of its own if any are given."""
        check_description(description)
        service = self._service(region)
        with self.audits.change(service, "CreateKey", None) as change:
            wanted = tags.checked_tags(key_tags)
            key = service.lifecycle.create(description, alias, tags=wanted, policy=policy)
            change.key_arn = key.arn
            change.details = {"alias": alias} if alias else {}
            if wanted:
                change.details = {**change.details, "tags": _names(wanted)}
        return key

    def describe_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Return the CMK that ``ref`` names, as it is now."""
        self.refresh()
        return self.resolve(ref, region=region)

    def list_keys(self, region: str | None = None) -> list[KeyMetadata]:
        """Return the CMKs of one region or of all, oldest first within each."""
        self.refresh()
        keys = [
            [key for key in service.snapshot.keys.values() if key.manager is not KeyManager.OWNED]
            for service in self._services_of(region)
        ]
        return [key for found in keys for key in sorted(found, key=lambda key: (key.created_at, key.key_id))]

    def enable_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Enable a CMK."""
        return self._change_state(ref, region, Operation.ENABLE, "EnableKey")

    def disable_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Disable a CMK: nothing is encrypted or decrypted under it until it is enabled again."""
        return self._change_state(ref, region, Operation.DISABLE, "DisableKey")

    def managed_key(self, region: str | None = None) -> KeyMetadata:
        """Return the region's key for trees that name none, made the first time."""
        service = self._fresh_service(self._region_or_only(region))
        if MANAGED_ALIAS in service.snapshot.aliases:
            return service.managed_key()
        with self.audits.change(service, "CreateKey", None, alias=MANAGED_ALIAS) as change:
            key = service.managed_key()
            change.key_arn = key.arn
        return key

    # --- the life of keys -----------------------------------------------------------------------
    def schedule_key_deletion(
        self, ref: str, *, days: int = MAX_WINDOW_DAYS, force: bool = False, region: str | None = None
    ) -> KeyMetadata:
        """Delete a CMK after 7 to 30 days.

        Refused while a known tree has slots of it, unless forced or allowed by a tag of the key.
        """
        service, key = self._seen(ref, region)
        users = [tree.path for tree in known_trees.known_trees(self.home) if key.arn in tree.key_arns]
        allowed = force or service.snapshot.tags.get(key.key_id, {}).get(tags.ALLOW_DELETION) == "yes"
        details = {"days": str(days), **({"overridden": ", ".join(users)} if users and allowed else {})}
        with self.audits.change(service, "ScheduleKeyDeletion", key.key_id, **details):
            next_state(changeable(service.snapshot, key.key_id).state, Operation.SCHEDULE_DELETION, key.arn)
            if users and not allowed:
                raise KeyInUseError(
                    f"key {key.arn} is in use by {len(users)} known trees: {', '.join(users[:5])}",
                    hint="what they hold would be lost for good; --force deletes the key all the same",
                )
            return service.lifecycle.schedule_deletion(key.key_id, days)

    def cancel_key_deletion(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Keep a CMK after all; it is then disabled."""
        return self._change_state(ref, region, Operation.CANCEL_DELETION, "CancelKeyDeletion")

    def update_key_description(self, ref: str, description: str, *, region: str | None = None) -> KeyMetadata:
        """Change what a CMK is said to be for."""
        check_description(description)
        service, key = self._seen(ref, region)
        with self.audits.change(service, "UpdateKeyDescription", key.key_id):
            return service.lifecycle.describe(key.key_id, description)

    def rotate_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Give a CMK new material now."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "RotateKeyOnDemand", key.key_id):
            return service.lifecycle.rotate_on_demand(key.key_id)

    def enable_key_rotation(
        self, ref: str, *, period_days: int | None = None, region: str | None = None
    ) -> KeyMetadata:
        """Turn automatic rotation on, or change its period (90 to 2560 days, at first 365)."""
        service, key = self._seen(ref, region)
        period = period_days if period_days is not None else key.rotation_period_days or DEFAULT_PERIOD_DAYS
        with self.audits.change(service, "EnableKeyRotation", key.key_id, period_days=str(period)):
            return service.lifecycle.set_rotation(key.key_id, period)

    def disable_key_rotation(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Turn automatic rotation off."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "DisableKeyRotation", key.key_id):
            return service.lifecycle.set_rotation(key.key_id, None)

    def tag_key(self, ref: str, pairs: Sequence[tuple[str, str]], *, region: str | None = None) -> None:
        """Add tags to a CMK, or change their values."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "TagResource", key.key_id, names=_names(name for name, _ in pairs)):
            tags.set_tags(service.ledger, key.key_id, pairs)

    def untag_key(self, ref: str, names: Sequence[str], *, region: str | None = None) -> None:
        """Take tags from a CMK."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "UntagResource", key.key_id, names=_names(names)):
            tags.remove_tags(service.ledger, key.key_id, names)

    def key_tags(self, ref: str, *, region: str | None = None) -> Mapping[str, str]:
        """Return the tags of a CMK."""
        service, key = self._seen(ref, region)
        return service.snapshot.tags.get(key.key_id, {})

    def note_tree(self, tree_id: TreeId, path: Path, key_arns: Collection[str]) -> None:
        """Remember that a tree has slots of these keys."""
        known_trees.note_tree(self.home, tree_id, path, key_arns)

    # --- aliases --------------------------------------------------------------------------------
    def create_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point a new alias at a key of the same region."""
        service, key_id = self._locate(target_ref, region)
        with self.audits.change(service, "CreateAlias", key_id, alias=name):
            return service.aliases.create(name, key_id)

    def update_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point an alias at another key of the same region."""
        service, key_id = self._locate(target_ref, region)
        with self.audits.change(service, "UpdateAlias", key_id, alias=name):
            return service.aliases.update(name, key_id)

    def delete_alias(self, name: str, *, region: str | None = None) -> None:
        """Remove an alias; its key stays."""
        check_alias(name)
        service = self._service(self._region_or_only(region))
        alias = service.snapshot.aliases.get(name)
        key_id = None if alias is None else alias.target_key_id
        with self.audits.change(service, "DeleteAlias", key_id, alias=name):
            service.aliases.delete(name)

    def list_aliases(self, region: str | None = None) -> list[AliasEntry]:
        """Return the aliases of one region or of all, by name within each."""
        self.refresh()
        aliases = [service.snapshot.aliases for service in self._services_of(region)]
        return [found[name] for found in aliases for name in sorted(found)]

    # --- inside ---------------------------------------------------------------------------------
    def _seen(self, ref: str, region: str | None) -> tuple[RegionService, KeyMetadata]:
        service, key_id = self._locate(ref, region)
        return service, service.key(key_id)

    def _change_state(self, ref: str, region: str | None, operation: Operation, action: str) -> KeyMetadata:
        service, key_id = self._locate(ref, region)
        with self.audits.change(service, action, key_id):
            return service.lifecycle.change_state(key_id, operation)


def _names(names: Iterable[str]) -> str:
    """Return what a record says of tags: their names, cut where a caller has no end."""
    return ", ".join(names)[:1024]


def check_description(description: str) -> None:
    """Raise InvalidRequestError if the description is too long."""
    if len(description) > MAX_DESCRIPTION_LENGTH:
        raise InvalidRequestError(f"description is longer than {MAX_DESCRIPTION_LENGTH} characters")

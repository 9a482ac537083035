"""What people do with keys and aliases, apart from using them: the part of ``Keystore`` for it."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from kmsfs.errors import InvalidRequestError, KeyInUseError, MetadataUnavailableError
from kmsfs.ids import MaterialId, TreeId
from kmsfs.keystore import known_trees, provision, tags
from kmsfs.keystore.arn import check_alias
from kmsfs.keystore.authorize import NOTHING
from kmsfs.keystore.last_use import KeyUsageHistory
from kmsfs.keystore.lifecycle import MAX_WINDOW_DAYS, RETIRE
from kmsfs.keystore.model import AliasEntry, KeyManager, KeyMetadata, KeySpec, Origin
from kmsfs.keystore.policy.context import parameter, request_tags, tag_keys
from kmsfs.keystore.region import MANAGED_ALIAS, RegionService
from kmsfs.keystore.regions import Regions
from kmsfs.keystore.retirement import require_followed
from kmsfs.keystore.rotation import DEFAULT_PERIOD_DAYS
from kmsfs.keystore.transitions import Operation

MAX_DESCRIPTION_LENGTH = 8192

_log = logging.getLogger(__name__)


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
        spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT,
        origin: Origin = Origin.AWS_KMS,
        multi_region: bool = False,
    ) -> KeyMetadata:
        """Make a CMK in the region, with an alias, tags and a policy of its own if any are given.

        A multi-region key can be replicated, and only that: its material is known to the host for a moment.
        """
        check_description(description)
        service = self._fresh_service(region)
        with self.audits.change(service, "CreateKey", None) as change:
            wanted = tags.checked_tags(key_tags)
            with provision.exclusive(self.home) if multi_region else nullcontext():
                key = service.lifecycle.create(
                    description,
                    alias,
                    tags=wanted,
                    policy=policy,
                    spec=spec,
                    origin=origin,
                    multi_region=multi_region,
                )
            change.key_arn = key.arn
            change.details = {"alias": alias} if alias else {}
            if wanted:
                change.details = {**change.details, "tags": _names(wanted)}
        return key

    def describe_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Return the CMK that ``ref`` names, as it is now."""
        self._catch_up()
        return self.resolve(ref, region=region)

    def usage_history(self, ref: str, *, region: str | None = None) -> KeyUsageHistory:
        """Return when a CMK was last used, as this host knows."""
        key = self.describe_key(ref, region=region)
        return self.audits.usage_history(self._fresh_service(key.region), key, self._now())

    def list_keys(self, region: str | None = None) -> list[KeyMetadata]:
        """Return the CMKs of one region or of all, oldest first within each."""
        keys = [
            [key for key in service.snapshot.keys.values() if key.manager is not KeyManager.OWNED]
            for service in self._fresh_services(region)
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

        Refused while a known tree has slots of it, or the register of trees cannot be read, unless forced or allowed
        by a tag of the key.
        """
        service, key = self._seen(ref, region)
        window = parameter("kms:ScheduleKeyDeletionPendingWindowInDays", days)
        with self.audits.change(service, "ScheduleKeyDeletion", key.key_id, window, days=str(days)) as change:
            service.lifecycle.require(key.key_id, Operation.SCHEDULE_DELETION)
            loss = self._loss_with(key)
            if loss:
                tagged = service.snapshot.tags.get(key.key_id, {}).get(tags.ALLOW_DELETION) == "yes"
                override = "force" if force else "tag" if tagged else "none"
                change.details = {**change.details, "loss": _names(loss), "override": override}
                if override == "none":
                    raise KeyInUseError(
                        f"key {key.arn} is in use: {_first(loss)}",
                        hint="what is encrypted under it would be lost for good; --force deletes it all the same",
                    )
            return service.lifecycle.schedule_deletion(key.key_id, days)

    def _loss_with(self, key: KeyMetadata) -> list[str]:
        """Return what is known to be lost with a key; not to know that counts as a loss.

        Nothing is lost with a replica: its related keys decrypt the same. With the last of them all is.
        """
        if key.is_replica:
            return []
        lost = {key.arn, *map(key.arn_in, (*key.replica_regions, *key.former_regions))}
        try:
            return [str(tree) for tree in known_trees.known_trees(self.home) if lost & {*tree.key_arns}]
        except MetadataUnavailableError as error:
            return [f"nobody knows by which trees ({error})"]

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

    def retire_key_material(self, ref: str, *, region: str | None = None) -> list[MaterialId]:
        """Destroy what a CMK has of old material, and return that.

        Refused while a known tree may need it: the last pass over each that has slots of the key must have left them
        all under its current material. What is encrypted outside trees is not known, and lost; who encrypts now may
        do so under old material until some seconds after a rotation, so that it is refused for so long.
        """
        service, key = self._seen(ref, region)
        with self.audits.change(service, RETIRE, key.key_id, outside_trees="unknown") as change:
            at_once = parameter("kms:ScheduleKeyDeletionPendingWindowInDays", 0)
            self.standing.require(service, "ScheduleKeyDeletion", NOTHING, key.key_id, at_once)
            key = service.lifecycle.retired.require(key.key_id)
            trees = [tree for tree in known_trees.known_trees(self.home) if key.arn in tree.key_arns]
            change.details = {**change.details, "trees": _names(map(str, trees))}
            _require_passed(key, trees)
            require_followed(key, self._now())
            retired = service.lifecycle.retired.retire(key)
            change.details = {**change.details, "materials": _names(name.hex() for name in retired)}
        return retired

    def enable_key_rotation(
        self, ref: str, *, period_days: int | None = None, region: str | None = None
    ) -> KeyMetadata:
        """Turn automatic rotation on, or change its period (90 to 2560 days, at first 365)."""
        service, key = self._seen(ref, region)
        period = period_days if period_days is not None else key.rotation_period_days or DEFAULT_PERIOD_DAYS
        wanted = parameter("kms:RotationPeriodInDays", period)
        with self.audits.change(service, "EnableKeyRotation", key.key_id, wanted, period_days=str(period)):
            return service.lifecycle.set_rotation(key.key_id, period)

    def disable_key_rotation(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Turn automatic rotation off."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "DisableKeyRotation", key.key_id):
            return service.lifecycle.set_rotation(key.key_id, None)

    def tag_key(self, ref: str, pairs: Sequence[tuple[str, str]], *, region: str | None = None) -> None:
        """Add tags to a CMK, or change their values."""
        service, key = self._seen(ref, region)
        wanted, names = request_tags(dict(pairs)), _names(name for name, _ in pairs)
        with self.audits.change(service, "TagResource", key.key_id, wanted, names=names):
            tags.set_tags(service.ledger, key.key_id, pairs)

    def untag_key(self, ref: str, names: Sequence[str], *, region: str | None = None) -> None:
        """Take tags from a CMK."""
        service, key = self._seen(ref, region)
        with self.audits.change(service, "UntagResource", key.key_id, tag_keys(names), names=_names(names)):
            tags.remove_tags(service.ledger, key.key_id, names)

    def key_tags(self, ref: str, *, region: str | None = None) -> Mapping[str, str]:
        """Return the tags of a CMK."""
        service, key = self._seen(ref, region)
        return service.snapshot.tags.get(key.key_id, {})

    def note_tree(
        self,
        tree_id: TreeId,
        path: Path,
        key_arns: Collection[str],
        *,
        besides: bool = False,
        under: Mapping[str, str] | None = None,
    ) -> None:
        """Remember that a tree has slots of these keys, and of no other or ``besides`` those that are known.

        ``under`` tells for keys the material, in hex, that all their slots are under; None: what is known of that
        stands. If the register cannot be written, a warning is all that comes of it.
        """
        try:
            known_trees.note_tree(self.home, tree_id, path, key_arns, besides=besides, under=under)
        except MetadataUnavailableError as error:
            _log.warning(
                "%s: deleting a key of tree %s will not be refused for its sake", error, tree_id.hex()
            )

    def note_copy(self, tree_id: TreeId, path: Path, key_arns: Collection[str]) -> None:
        """Remember that a copy of a tree is made there: it has slots of all keys that the tree has."""
        try:
            known = known_trees.known_trees(self.home)
        except MetadataUnavailableError:  # said when it is noted
            known = []
        same = (tree.key_arns for tree in known if tree.tree_id == tree_id.hex())
        self.note_tree(tree_id, path, {*key_arns, *chain.from_iterable(same)}, besides=True, under={})

    # --- aliases --------------------------------------------------------------------------------
    def create_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point a new alias at a key of the same region."""
        service, key_id = self._locate(target_ref, region)
        with self.audits.change(service, "CreateAlias", key_id, alias=name):
            return service.aliases.create(name, key_id)

    def update_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point an alias at another key of the same region."""
        service, key_id = self._locate(target_ref, region)
        old = service.snapshot.aliases.get(name)
        with self.audits.change(service, "UpdateAlias", key_id, alias=name):
            if old is not None:
                self.standing.require(service, "UpdateAlias", NOTHING, old.target_key_id)
            return service.aliases.update(name, key_id)

    def delete_alias(self, name: str, *, region: str | None = None) -> None:
        """Remove an alias; its key stays."""
        check_alias(name)
        service = self._fresh_service(self._region_or_only(region))
        alias = service.snapshot.aliases.get(name)
        key_id = None if alias is None else alias.target_key_id
        with self.audits.change(service, "DeleteAlias", key_id, alias=name):
            service.aliases.delete(name)

    def list_aliases(self, region: str | None = None) -> list[AliasEntry]:
        """Return the aliases of one region or of all, by name within each."""
        aliases = [service.snapshot.aliases for service in self._fresh_services(region)]
        return [found[name] for found in aliases for name in sorted(found)]

    # --- inside ---------------------------------------------------------------------------------
    def _seen(self, ref: str, region: str | None) -> tuple[RegionService, KeyMetadata]:
        service, key_id = self._locate(ref, region)
        return service, service.key(key_id)

    def _change_state(self, ref: str, region: str | None, operation: Operation, action: str) -> KeyMetadata:
        service, key_id = self._locate(ref, region)
        with self.audits.change(service, action, key_id):
            return service.lifecycle.change_state(key_id, operation)


def _require_passed(key: KeyMetadata, trees: Iterable[known_trees.KnownTree]) -> None:
    """Raise KeyInUseError unless no tree can have a slot of old material."""
    current = key.current_material
    unsafe = [
        tree for tree in trees if current is None or tree.under.get(key.arn) != current.material_id.hex()
    ]
    if unsafe:
        tree = unsafe[0]
        raise KeyInUseError(
            f"old material of key {key.arn} may be in use: {_first([str(tree) for tree in unsafe])}",
            hint=f"kmsfs rewrap {tree.path}"
            if tree.kind == known_trees.TREE
            else f"{tree} keeps the material that it was made with",
        )


def _names(names: Iterable[str]) -> str:
    """Return what a record says of many things: their names, cut where a caller has no end."""
    return ", ".join(names)[:1024]


def _first(names: Sequence[str]) -> str:
    """Return what a message says of many things: the names of the first, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def check_description(description: str) -> None:
    """Raise InvalidRequestError if the description is too long, or no text that every metadata store can keep."""
    if "\0" in description or any("\ud800" <= character <= "\udfff" for character in description):
        raise InvalidRequestError("description holds a character that is none")
    if len(description) > MAX_DESCRIPTION_LENGTH:
        raise InvalidRequestError(f"description is longer than {MAX_DESCRIPTION_LENGTH} characters")

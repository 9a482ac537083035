"""What a person may do with the keys of a keystore, apart from using them: the part of ``Keystore`` for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsfs.errors import InvalidRequestError, KeyStateError
from kmsfs.keystore import known_trees, tags
from kmsfs.keystore.lifecycle import DEFAULT_PERIOD_DAYS, MAX_WINDOW_DAYS
from kmsfs.keystore.transitions import Operation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from kmsfs.ids import KeyId, TreeId
    from kmsfs.keystore.model import KeyMetadata
    from kmsfs.keystore.region import RegionService

MAX_DESCRIPTION_LENGTH = 8192


class Administration:
    """The life of keys, by reference."""

    home: Path

    def _locate(self, ref: str, region: str | None) -> tuple[RegionService, KeyId]:
        raise NotImplementedError

    def _seen(self, ref: str, region: str | None) -> tuple[RegionService, KeyMetadata]:
        service, key_id = self._locate(ref, region)
        return service, service.key(key_id)

    def schedule_key_deletion(
        self, ref: str, *, days: int = MAX_WINDOW_DAYS, force: bool = False, region: str | None = None
    ) -> KeyMetadata:
        """Delete a CMK after 7 to 30 days; refused, unless forced, while a known tree has slots of it."""
        service, key = self._seen(ref, region)
        users = [tree.path for tree in known_trees.known_trees(self.home) if key.arn in tree.key_arns]
        if users and not force:
            raise KeyStateError(
                f"key {key.arn} is in use by {len(users)} known trees: {', '.join(users[:5])}",
                hint="what they hold would be lost for good; --force deletes the key all the same",
            )
        return service.lifecycle.schedule_deletion(key.key_id, days)

    def cancel_key_deletion(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Keep a CMK after all; it is then disabled."""
        service, key = self._seen(ref, region)
        return service.lifecycle.change_state(key.key_id, Operation.CANCEL_DELETION)

    def update_key_description(self, ref: str, description: str, *, region: str | None = None) -> KeyMetadata:
        """Change what a CMK is said to be for."""
        check_description(description)
        service, key = self._seen(ref, region)
        return service.lifecycle.describe(key.key_id, description)

    def rotate_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Give a CMK new material now."""
        service, key = self._seen(ref, region)
        return service.lifecycle.rotate_on_demand(key.key_id)

    def enable_key_rotation(
        self, ref: str, *, period_days: int | None = None, region: str | None = None
    ) -> KeyMetadata:
        """Turn automatic rotation on, or change its period (90 to 2560 days, at first 365)."""
        service, key = self._seen(ref, region)
        period = period_days if period_days is not None else key.rotation_period_days or DEFAULT_PERIOD_DAYS
        return service.lifecycle.set_rotation(key.key_id, period)

    def disable_key_rotation(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Turn automatic rotation off."""
        service, key = self._seen(ref, region)
        return service.lifecycle.set_rotation(key.key_id, None)

    def tag_key(self, ref: str, pairs: Sequence[tuple[str, str]], *, region: str | None = None) -> None:
        """Add tags to a CMK, or change their values."""
        service, key = self._seen(ref, region)
        tags.set_tags(service.ledger, key.key_id, pairs)

    def untag_key(self, ref: str, names: Sequence[str], *, region: str | None = None) -> None:
        """Take tags from a CMK."""
        service, key = self._seen(ref, region)
        tags.remove_tags(service.ledger, key.key_id, names)

    def key_tags(self, ref: str, *, region: str | None = None) -> Mapping[str, str]:
        """Return the tags of a CMK."""
        service, key = self._seen(ref, region)
        return service.snapshot.tags.get(key.key_id, {})

    def note_tree(self, tree_id: TreeId, path: Path, key_arns: Collection[str]) -> None:
        """Remember that a tree has slots of these keys."""
        known_trees.note_tree(self.home, tree_id, path, key_arns)


def check_description(description: str) -> None:
    """Raise InvalidRequestError if the description is too long."""
    if len(description) > MAX_DESCRIPTION_LENGTH:
        raise InvalidRequestError(f"description is longer than {MAX_DESCRIPTION_LENGTH} characters")

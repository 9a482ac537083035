"""What one region's part of a multi-region key needs of the key's other regions."""

from contextlib import AbstractContextManager
from typing import Protocol

from kmsfs.errors import NotPrimaryError
from kmsfs.keystore.model import KeyMetadata


class Relatives(Protocol):
    """The related keys of other regions, which multi_region.py keeps in step."""

    def changing(self, key: KeyMetadata) -> AbstractContextManager[None]:
        """Bring the related keys in step, let the primary be changed inside, and bring them in step again.

        Raises before anything is changed if a region of the key cannot take part.
        """

    def forget(self, key: KeyMetadata) -> None:
        """Take a replica, whose material is about to be destroyed, out of its related keys' lists."""


def require_multi_region(key: KeyMetadata) -> None:
    """Raise NotPrimaryError for a key of one region."""
    if key.primary_region is None:
        raise NotPrimaryError(
            f"key {key.arn} is no multi-region key", hint="kmsfs key create --multi-region makes one"
        )


def require_no_replica(key: KeyMetadata) -> None:
    """Raise NotPrimaryError for a replica: some things are done to its primary only."""
    if key.primary_region is not None and not key.is_primary:
        raise NotPrimaryError(
            f"key {key.arn} is a replica", hint=f"its primary key is {key.arn_in(key.primary_region)}"
        )


def require_primary(key: KeyMetadata) -> None:
    """Raise NotPrimaryError unless this is the primary of a multi-region key."""
    require_multi_region(key)
    require_no_replica(key)

"""Tags on one region's keys, within AWS's limits."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from kmsfs.errors import (
    DuplicateTagError,
    InvalidRequestError,
    ReservedTagError,
    TagError,
    TooManyTagsError,
)
from kmsfs.ids import KeyId
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.rows import tag_id, tag_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.transitions import Operation, next_state

MAX_TAGS: Final = 50
MAX_NAME_LENGTH: Final = 128
MAX_VALUE_LENGTH: Final = 256
RESERVED_PREFIX: Final = "aws:"
#: The tag that lets a key be deleted, if its value is ``yes``, though a known tree would be lost.
ALLOW_DELETION: Final = "kmsfs:allow-deletion"

_TEXT = re.compile(r"[\w .:/=+@-]*")


def set_tags(ledger: Ledger, key_id: KeyId, tags: Sequence[tuple[str, str]]) -> None:
    """Add tags to a CMK, or give those that it has new values."""
    wanted = checked_tags(tags)

    def decide(snapshot: Snapshot) -> Changes:
        key = changeable(snapshot, key_id)
        next_state(key.state, Operation.TAG, key.arn)
        _check_count({**snapshot.tags.get(key_id, {}), **wanted}, f"key {key.arn}")
        rows = [tag_values(snapshot.region, key_id, name, value) for name, value in wanted.items()]
        return Changes(puts=[("tags", row) for row in rows])

    ledger.commit(decide)


def remove_tags(ledger: Ledger, key_id: KeyId, names: Sequence[str]) -> None:
    """Take tags from a CMK; those that it does not have are no error."""
    for name in names:
        _check(name, "")

    def decide(snapshot: Snapshot) -> Changes:
        key = changeable(snapshot, key_id)
        next_state(key.state, Operation.TAG, key.arn)
        there: Mapping[str, str] = snapshot.tags.get(key_id, {})
        return Changes(deletes=[("tags", tag_id(key_id, name)) for name in names if name in there])

    ledger.commit(decide)


def checked_tags(tags: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return the tags of one request by name, or raise TagError or InvalidRequestError."""
    for name, value in tags:
        _check(name, value)
    wanted = dict(tags)
    if len(wanted) != len(tags):
        raise DuplicateTagError("a tag key is named twice")
    _check_count(wanted, "a key")
    return wanted


def _check_count(tags: Mapping[str, str], owner: str) -> None:
    if len(tags) > MAX_TAGS:
        raise TooManyTagsError(f"{owner} would have more than {MAX_TAGS} tags")


def _check(name: str, value: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequestError(f"tag key must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    if len(value) > MAX_VALUE_LENGTH:
        raise InvalidRequestError(
            f"tag value must have at most {MAX_VALUE_LENGTH} characters, not {len(value)}"
        )
    if name.lower().startswith(RESERVED_PREFIX):
        raise ReservedTagError(
            f"tag key {name!r} is reserved", hint="choose a key that does not begin with aws:"
        )
    if not _TEXT.fullmatch(name) or not _TEXT.fullmatch(value):
        raise TagError(
            f"tag {name!r} has characters that tags cannot have", hint="letters, digits, spaces and _.:/=+-@"
        )

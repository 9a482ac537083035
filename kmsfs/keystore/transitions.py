"""What each action does in each state of a CMK: one total table.

A state means that the action is allowed and leaves the key in it; an error class means that it is refused.
"""

from enum import StrEnum
from typing import Final

from kmsfs.errors import (
    KeyDisabledError,
    KeyNotPendingDeletionError,
    KeyPendingDeletionError,
    KeyStateError,
    KeystoreError,
)
from kmsfs.keystore.model import KeyState


class Operation(StrEnum):
    """The actions on a CMK whose outcome depends on its state."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    GENERATE_DATA_KEY = "generate a data key"
    ENABLE = "enable"
    DISABLE = "disable"
    POINT_ALIAS = "point an alias at"
    SCHEDULE_DELETION = "schedule the deletion of"
    CANCEL_DELETION = "cancel the deletion of"
    ROTATE = "rotate"
    SET_ROTATION = "turn rotation on or off"
    TAG = "tag"
    DESCRIBE_ANEW = "change the description of"
    CREATE_GRANT = "create a grant on"


_USES: Final = (Operation.ENCRYPT, Operation.DECRYPT, Operation.GENERATE_DATA_KEY, Operation.CREATE_GRANT)

_ROTATION: Final = (Operation.ROTATE, Operation.SET_ROTATION)
_LABELS: Final = (Operation.POINT_ALIAS, Operation.TAG, Operation.DESCRIBE_ANEW)
_DELETABLE: Final = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_IMPORT)

Outcome = KeyState | type[KeystoreError]

TRANSITIONS: Final[dict[tuple[KeyState, Operation], Outcome]] = {
    **{(KeyState.ENABLED, use): KeyState.ENABLED for use in (*_USES, *_ROTATION)},
    **{(KeyState.DISABLED, use): KeyDisabledError for use in (*_USES, *_ROTATION)},
    **{(KeyState.PENDING_DELETION, use): KeyPendingDeletionError for use in (*_USES, *_ROTATION)},
    **{(KeyState.PENDING_IMPORT, use): KeyStateError for use in (*_USES, *_ROTATION)},
    (KeyState.ENABLED, Operation.ENABLE): KeyState.ENABLED,
    (KeyState.DISABLED, Operation.ENABLE): KeyState.ENABLED,
    (KeyState.PENDING_DELETION, Operation.ENABLE): KeyPendingDeletionError,
    (KeyState.PENDING_IMPORT, Operation.ENABLE): KeyStateError,
    (KeyState.ENABLED, Operation.DISABLE): KeyState.DISABLED,
    (KeyState.DISABLED, Operation.DISABLE): KeyState.DISABLED,
    (KeyState.PENDING_DELETION, Operation.DISABLE): KeyPendingDeletionError,
    (KeyState.PENDING_IMPORT, Operation.DISABLE): KeyStateError,
    **{(state, label): state for state in _DELETABLE for label in _LABELS},
    **{(KeyState.PENDING_DELETION, label): KeyPendingDeletionError for label in _LABELS},
    **{(state, Operation.SCHEDULE_DELETION): KeyState.PENDING_DELETION for state in _DELETABLE},
    (KeyState.PENDING_DELETION, Operation.SCHEDULE_DELETION): KeyPendingDeletionError,
    **{(state, Operation.CANCEL_DELETION): KeyNotPendingDeletionError for state in _DELETABLE},
    (KeyState.PENDING_DELETION, Operation.CANCEL_DELETION): KeyState.DISABLED,
}

_REASONS: Final = {
    KeyState.DISABLED: "is disabled",
    KeyState.PENDING_DELETION: "is pending deletion",
    KeyState.PENDING_IMPORT: "is pending import",
}
_REMEDIES: Final = {
    KeyState.DISABLED: "enable it first: kmsfs key enable {}",
    KeyState.PENDING_DELETION: "keep it after all: kmsfs key cancel-deletion {}",
    KeyState.PENDING_IMPORT: "",
}


def next_state(state: KeyState, operation: Operation, key_arn: str) -> KeyState:
    """Return the state after ``operation``, or raise what the table says."""
    outcome = TRANSITIONS[state, operation]
    if isinstance(outcome, KeyState):
        return outcome
    if operation is Operation.CANCEL_DELETION:
        raise outcome(f"key {key_arn} is not pending deletion")
    raise outcome(f"key {key_arn} {_REASONS[state]}", hint=_REMEDIES[state].format(key_arn))

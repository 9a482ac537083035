"""What each action does in each state of a CMK: one total table.

A state means that the action is allowed and leaves the key in it; an error class means that it is refused.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from kmsfs.errors import (
    InvalidKeyUsageError,
    KeyDisabledError,
    KeyNotPendingDeletionError,
    KeyPendingDeletionError,
    KeyPendingImportError,
    KeystoreError,
)
from kmsfs.keystore.model import KeyMetadata, KeyState, KeyUsage


class Operation(StrEnum):
    """The actions on a CMK whose outcome depends on its state."""

    ENCRYPT = "encrypt with"
    DECRYPT = "decrypt with"
    GENERATE_DATA_KEY = "generate a data key with"
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
    GENERATE_MAC = "generate a MAC with"
    VERIFY_MAC = "verify a MAC with"
    GET_IMPORT_PARAMETERS = "get parameters for an import into"
    IMPORT_MATERIAL = "import material into"
    DELETE_MATERIAL = "delete the material of"
    REPLICATE = "replicate"
    MOVE_PRIMARY = "change the primary region of"
    RETIRE_MATERIAL = "retire the old material of"


class Purpose(NamedTuple):
    """What a key is used for: as the audit log and policies call it, and what the key's state must allow.

    ``counted``: one of the many uses that opening files makes (``AuditLog.counting``).
    """

    action: str
    operation: Operation
    counted: bool = False


_USAGES: Final = {
    Operation.ENCRYPT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.DECRYPT: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_DATA_KEY: KeyUsage.ENCRYPT_DECRYPT,
    Operation.GENERATE_MAC: KeyUsage.GENERATE_VERIFY_MAC,
    Operation.VERIFY_MAC: KeyUsage.GENERATE_VERIFY_MAC,
}
_USES: Final = (*_USAGES, Operation.CREATE_GRANT)
_ROTATION: Final = (
    Operation.ROTATE,
    Operation.SET_ROTATION,
    Operation.REPLICATE,
    Operation.MOVE_PRIMARY,
    Operation.RETIRE_MATERIAL,
)
_LABELS: Final = (Operation.POINT_ALIAS, Operation.TAG, Operation.DESCRIBE_ANEW)
_DELETABLE: Final = (KeyState.ENABLED, KeyState.DISABLED, KeyState.PENDING_IMPORT)
_DOOMED: Final = (KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION)

Outcome = KeyState | type[KeystoreError]

TRANSITIONS: Final[dict[tuple[KeyState, Operation], Outcome]] = {
    **{(KeyState.ENABLED, use): KeyState.ENABLED for use in (*_USES, *_ROTATION)},
    **{(KeyState.DISABLED, use): KeyDisabledError for use in (*_USES, *_ROTATION)},
    **{(state, use): KeyPendingDeletionError for use in (*_USES, *_ROTATION) for state in _DOOMED},
    **{(KeyState.PENDING_IMPORT, use): KeyPendingImportError for use in (*_USES, *_ROTATION)},
    (KeyState.ENABLED, Operation.ENABLE): KeyState.ENABLED,
    (KeyState.DISABLED, Operation.ENABLE): KeyState.ENABLED,
    **{(state, Operation.ENABLE): KeyPendingDeletionError for state in _DOOMED},
    (KeyState.PENDING_IMPORT, Operation.ENABLE): KeyPendingImportError,
    (KeyState.ENABLED, Operation.DISABLE): KeyState.DISABLED,
    (KeyState.DISABLED, Operation.DISABLE): KeyState.DISABLED,
    **{(state, Operation.DISABLE): KeyPendingDeletionError for state in _DOOMED},
    (KeyState.PENDING_IMPORT, Operation.DISABLE): KeyPendingImportError,
    **{(state, label): state for state in _DELETABLE for label in _LABELS},
    **{(state, label): KeyPendingDeletionError for label in _LABELS for state in _DOOMED},
    **{(state, Operation.GET_IMPORT_PARAMETERS): state for state in _DELETABLE},
    **{(state, Operation.GET_IMPORT_PARAMETERS): KeyPendingDeletionError for state in _DOOMED},
    (KeyState.ENABLED, Operation.IMPORT_MATERIAL): KeyState.ENABLED,
    (KeyState.DISABLED, Operation.IMPORT_MATERIAL): KeyState.DISABLED,
    **{(state, Operation.IMPORT_MATERIAL): KeyPendingDeletionError for state in _DOOMED},
    (KeyState.PENDING_IMPORT, Operation.IMPORT_MATERIAL): KeyState.ENABLED,  # once it lacks none
    **{(state, Operation.DELETE_MATERIAL): KeyState.PENDING_IMPORT for state in _DELETABLE},
    **{(state, Operation.DELETE_MATERIAL): state for state in _DOOMED},
    **{(state, Operation.SCHEDULE_DELETION): KeyState.PENDING_DELETION for state in _DELETABLE},
    **{(state, Operation.SCHEDULE_DELETION): KeyPendingDeletionError for state in _DOOMED},
    **{(state, Operation.CANCEL_DELETION): KeyNotPendingDeletionError for state in _DELETABLE},
    **{(state, Operation.CANCEL_DELETION): KeyState.DISABLED for state in _DOOMED},
}

#: What ``check_use`` lets pass, as (usage, state, operation): what the two tables say, in one for who asks often.
ALLOWED_USES: Final = frozenset(
    (usage, state, operation)
    for (state, operation), outcome in TRANSITIONS.items()
    for usage in KeyUsage
    if isinstance(outcome, KeyState) and _USAGES.get(operation, usage) is usage
)

_REASONS: Final = {
    KeyState.DISABLED: "is disabled",
    KeyState.PENDING_DELETION: "is pending deletion",
    KeyState.PENDING_REPLICA_DELETION: "is pending deletion of its replicas",
    KeyState.PENDING_IMPORT: "is pending import",
}
_REMEDIES: Final = {
    KeyState.DISABLED: "enable it first: kmsfs key enable {}",
    KeyState.PENDING_DELETION: "keep it after all: kmsfs key cancel-deletion {}",
    KeyState.PENDING_REPLICA_DELETION: "keep it after all: kmsfs key cancel-deletion {}",
    KeyState.PENDING_IMPORT: "import its material: kmsfs key import {} FILE",
}


def check_use(key: KeyMetadata, operation: Operation) -> None:
    """Raise what refuses the use of a key: that it is for something else, or its state."""
    if (key.usage, key.state, operation) in ALLOWED_USES:
        return
    if _USAGES.get(operation, key.usage) is not key.usage:
        raise InvalidKeyUsageError(f"key {key.arn} is for {key.usage.value}: nobody can {operation.value} it")
    next_state(key.state, operation, key.arn)


def next_state(state: KeyState, operation: Operation, key_arn: str) -> KeyState:
    """Return the state after ``operation``, or raise what the table says."""
    outcome = TRANSITIONS[state, operation]
    if isinstance(outcome, KeyState):
        return outcome
    if operation is Operation.CANCEL_DELETION:
        raise outcome(f"key {key_arn} is not pending deletion")
    raise outcome(f"key {key_arn} {_REASONS[state]}", hint=_REMEDIES[state].format(key_arn))

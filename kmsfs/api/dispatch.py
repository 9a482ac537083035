"""Which function answers which action, and where its errors become AWS's.

A table: what ``ACTIONS`` knows and this table does not is refused as unsupported.
"""

from collections.abc import Callable, Mapping
from typing import Final

from kmsfs.api import actions_crypto as crypto
from kmsfs.api import actions_keys as keys
from kmsfs.api import actions_rotation as rotation
from kmsfs.api import actions_tags as tags
from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.refusal import Refusal
from kmsfs.api.status import refusal_of
from kmsfs.api.wire import Call
from kmsfs.errors import KmsfsError
from kmsfs.keystore.service import Keystore

HANDLERS: Final[Mapping[str, Callable[[ActionCall], Output]]] = {
    "CreateKey": keys.create_key,
    "DescribeKey": keys.describe_key,
    "ListKeys": keys.list_keys,
    "EnableKey": keys.enable_key,
    "DisableKey": keys.disable_key,
    "UpdateKeyDescription": keys.update_key_description,
    "ScheduleKeyDeletion": keys.schedule_key_deletion,
    "CancelKeyDeletion": keys.cancel_key_deletion,
    "CreateAlias": keys.create_alias,
    "UpdateAlias": keys.update_alias,
    "DeleteAlias": keys.delete_alias,
    "ListAliases": keys.list_aliases,
    "Encrypt": crypto.encrypt,
    "Decrypt": crypto.decrypt,
    "ReEncrypt": crypto.re_encrypt,
    "GenerateDataKey": crypto.generate_data_key,
    "GenerateDataKeyWithoutPlaintext": crypto.generate_data_key_without_plaintext,
    "GenerateRandom": crypto.generate_random,
    "EnableKeyRotation": rotation.enable_key_rotation,
    "DisableKeyRotation": rotation.disable_key_rotation,
    "GetKeyRotationStatus": rotation.get_key_rotation_status,
    "RotateKeyOnDemand": rotation.rotate_key_on_demand,
    "ListKeyRotations": rotation.list_key_rotations,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListResourceTags": tags.list_resource_tags,
}

# They change nothing, and cost a token microseconds.
USES: Final = frozenset(
    {
        "Encrypt",
        "Decrypt",
        "ReEncrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateRandom",
        "DescribeKey",
    }
)


def carry_out(keystore: Keystore, region: str, call: Call) -> Output:
    """Carry out one request of ``region`` and return its output; raise Refusal."""
    handler = HANDLERS.get(call.action)
    if handler is None:
        raise Refusal("UnsupportedOperationException", f"{call.action} is not supported.")
    work = ActionCall(keystore, region, call.parameters)
    try:
        return handler(work)
    except KmsfsError as error:
        raise refusal_of(error, work.resource) from error

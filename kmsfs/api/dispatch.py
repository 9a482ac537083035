"""Which function answers which action, on whose behalf, and where its errors become AWS's.

A table: what ``ACTIONS`` knows and this table does not is refused as unsupported.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from kmsfs.api import actions_crypto as crypto
from kmsfs.api import actions_grants as grants
from kmsfs.api import actions_import as imports
from kmsfs.api import actions_keys as keys
from kmsfs.api import actions_mac as macs
from kmsfs.api import actions_policies as policies
from kmsfs.api import actions_regions as regions
from kmsfs.api import actions_rotation as rotation
from kmsfs.api import actions_tags as tags
from kmsfs.api.asking import Asker, caller_of
from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.permissions import PERMISSIONS
from kmsfs.api.refusal import Refusal
from kmsfs.api.status import refusal_of
from kmsfs.api.wire import Call
from kmsfs.errors import KmsfsError
from kmsfs.keystore.audit import Actor
from kmsfs.keystore.audit_log import acting_for
from kmsfs.keystore.service import Keystore

_UID: Final = os.getuid()

HANDLERS: Final[Mapping[str, Callable[[ActionCall], Output]]] = {
    "CreateKey": keys.create_key,
    "DescribeKey": keys.describe_key,
    "GetKeyLastUsage": keys.get_key_last_usage,
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
    "GenerateMac": macs.generate_mac,
    "VerifyMac": macs.verify_mac,
    "GetParametersForImport": imports.get_parameters_for_import,
    "ImportKeyMaterial": imports.import_key_material,
    "DeleteImportedKeyMaterial": imports.delete_imported_key_material,
    "EnableKeyRotation": rotation.enable_key_rotation,
    "DisableKeyRotation": rotation.disable_key_rotation,
    "GetKeyRotationStatus": rotation.get_key_rotation_status,
    "RotateKeyOnDemand": rotation.rotate_key_on_demand,
    "ListKeyRotations": rotation.list_key_rotations,
    "ReplicateKey": regions.replicate_key,
    "UpdatePrimaryRegion": regions.update_primary_region,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListResourceTags": tags.list_resource_tags,
    "PutKeyPolicy": policies.put_key_policy,
    "GetKeyPolicy": policies.get_key_policy,
    "ListKeyPolicies": policies.list_key_policies,
    "CreateGrant": grants.create_grant,
    "ListGrants": grants.list_grants,
    "ListRetirableGrants": grants.list_retirable_grants,
    "RetireGrant": grants.retire_grant,
    "RevokeGrant": grants.revoke_grant,
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
        "GenerateMac",
        "VerifyMac",
        "DescribeKey",
    }
)


def carry_out(keystore: Keystore, asker: Asker, call: Call) -> Output:
    """Authorise one request, carry it out and return its output; raise Refusal."""
    handler = HANDLERS.get(call.action)
    if handler is None:
        raise Refusal("UnsupportedOperationException", f"{call.action} is not supported.")
    caller = caller_of(keystore, asker, time.time())
    work = ActionCall(keystore, asker.region, call.action, call.parameters, caller)
    actor = Actor(keystore.principal(asker.region, caller.name).arn, _UID, "server", asker.request_id)
    try:
        with acting_for(actor):
            PERMISSIONS[call.action](work)
            return handler(work)
    except KmsfsError as error:
        raise refusal_of(error, work.resource, work.told()) from error

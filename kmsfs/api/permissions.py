"""How each action is authorised: on which key, alias or account, and with which facts of the request.

A table, total over ``ACTIONS``. It runs before the action itself: before any token is asked, and before a key's state
shows in the answer.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, cast

from kmsfs.api.actions_grants import wanted_grant
from kmsfs.api.calls import ActionCall
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.access import NOT_FOR_AWS
from kmsfs.keystore.arn import key_arn
from kmsfs.keystore.lifecycle import MAX_WINDOW_DAYS
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.policy.context import Values, merge, parameter, request_tags, tag_keys
from kmsfs.keystore.rotation import DEFAULT_PERIOD_DAYS

Permission = Callable[[ActionCall], None]
Facts = Callable[[ActionCall], Values]

_NO_FACTS: Final[Values] = {}


# --- facts --------------------------------------------------------------------------------------
def _given(**members: str) -> Facts:
    """Condition keys that stand for members of the request, by the members' names; absent ones have none."""

    def facts(call: ActionCall) -> Values:
        found: Values = {}
        for member, key in members.items():
            value = call.parameters.get(member)
            if isinstance(value, datetime):
                value = value.strftime("%Y-%m-%dT%H:%M:%SZ")
            if isinstance(value, str | int):
                found |= parameter(key, value)
        return found

    return facts


def _tags(call: ActionCall) -> Values:
    return request_tags(dict(call.tags()))


def _tag_keys(call: ActionCall) -> Values:
    return tag_keys(cast("list[str]", call.parameters["TagKeys"]))


def _bypass(call: ActionCall) -> Values:
    bypass = bool(call.parameters.get("BypassPolicyLockoutSafetyCheck"))
    return parameter("kms:BypassPolicyLockoutSafetyCheck", bypass)


def _policy_name(call: ActionCall) -> Values:
    return parameter("kms:PolicyName", call.text("PolicyName", "default"))


def _window(call: ActionCall) -> Values:
    days = call.number("PendingWindowInDays", MAX_WINDOW_DAYS)
    return parameter("kms:ScheduleKeyDeletionPendingWindowInDays", days)


def _period(call: ActionCall) -> Values:
    period = call.key(aliases=False).rotation_period_days or DEFAULT_PERIOD_DAYS
    return parameter("kms:RotationPeriodInDays", call.number("RotationPeriodInDays", period))


def _grants_alone(call: ActionCall) -> Values:
    return NOT_FOR_AWS


def _new_key(call: ActionCall) -> Values:
    kind = _kind(
        call.text("KeySpec") or call.text("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        call.text("KeyUsage", "ENCRYPT_DECRYPT"),
        call.text("Origin", "AWS_KMS"),
        "PRIMARY" if call.parameters.get("MultiRegion") is True else None,
    )
    return merge(kind, _bypass(call), _tags(call))


def _kind(spec: str, usage: str, origin: str, multi_region: str | None) -> Values:
    """Condition keys of a key that is to be made."""
    return merge(
        parameter("kms:KeySpec", spec),
        parameter("kms:CustomerMasterKeySpec", spec),
        parameter("kms:KeyUsage", usage),
        parameter("kms:CustomerMasterKeyUsage", usage),
        parameter("kms:KeyOrigin", origin),
        parameter("kms:MultiRegion", multi_region is not None),
        _NO_FACTS if multi_region is None else parameter("kms:MultiRegionKeyType", multi_region),
    )


def _alias_named(call: ActionCall, member: str = "KeyId") -> Values:
    alias = call.request_alias(member) if member in call.parameters else None
    return _NO_FACTS if alias is None else parameter("kms:RequestAlias", alias)


# --- the ways of authorising --------------------------------------------------------------------
def _on_key(action: str, *facts: Facts) -> Permission:
    """On the key that KeyId names, by id or ARN."""

    def check(call: ActionCall) -> None:
        key = call.key(aliases=False)
        call.require(action, key, context=merge(*(found(call) for found in facts)))

    return check


def _using_key(action: str, *facts: Facts) -> Permission:
    """On the key that KeyId names, also by an alias, with the encryption context."""

    def check(call: ActionCall) -> None:
        call.check_grant_tokens()
        key = call.key()
        context = merge(_alias_named(call), *(found(call) for found in facts))
        call.require(action, key, context=context, pairs=call.context())

    return check


def _on_account(action: str, *facts: Facts) -> Permission:
    """On no key: identity policies alone decide."""

    def check(call: ActionCall) -> None:
        call.require(action, context=merge(*(found(call) for found in facts)))

    return check


def _blob_key(call: ActionCall, member: str) -> KeyMetadata:
    """Return the key that a member names, else the one that the blob is under."""
    if member in call.parameters:
        return call.key(member)
    return call.keystore.key_of_blob(call.blob("CiphertextBlob"), region=call.region)


def _decrypt(call: ActionCall) -> None:
    call.check_grant_tokens()
    key = _blob_key(call, "KeyId")
    call.require("Decrypt", key, context=_alias_named(call), pairs=call.context())


def _re_encrypt(call: ActionCall) -> None:
    call.check_grant_tokens()
    source, target = _blob_key(call, "SourceKeyId"), call.key("DestinationKeyId")
    same = parameter("kms:ReEncryptOnSameKey", source.key_id == target.key_id)
    for action, key, member, pairs in (
        ("ReEncryptFrom", source, "SourceKeyId", "SourceEncryptionContext"),
        ("ReEncryptTo", target, "DestinationKeyId", "DestinationEncryptionContext"),
    ):
        context = merge(same, _alias_named(call, member))
        call.require(action, key, context=context, pairs=call.context(pairs))


def _create_key(call: ActionCall) -> None:
    context = _new_key(call)
    call.require("CreateKey", context=context)
    if call.parameters.get("Tags"):
        # The key is not there yet: its ARN is known but for its id.
        region = Region(call.region)
        new = key_arn(region, call.keystore.account(region), KeyId("*"))
        call.require("TagResource", resource=new, context=context)


def _alias(action: str, *, target: bool, old: bool) -> Permission:
    """On the alias by identity policies, and on the keys that it is to point at, and points at now."""

    def check(call: ActionCall) -> None:
        wanted = call.target() if target else None
        name = call.alias()
        call.require(action, resource=call.alias_arn(name))
        if old:
            call.require(action, call.keystore.resolve(name, region=call.region))
        if wanted is not None:
            call.require(action, wanted)

    return check


def _create_grant(call: ActionCall) -> None:
    call.check_grant_tokens()
    call.keystore.authorize_grant(call.region, call.caller, call.key(aliases=False), wanted_grant(call))


def _list_retirable_grants(call: ActionCall) -> None:
    """On the retiring principal, by identity policies alone: not on the keys of the grants."""
    call.require("ListRetirableGrants", resource=call.text("RetiringPrincipal"))


def _retire_grant(call: ActionCall) -> None:
    call.keystore.authorize_retirement(call.caller, call.grant())


def _replicate_key(call: ActionCall) -> None:
    replica = call.text("ReplicaRegion")
    key, there = call.key(aliases=False), parameter("kms:ReplicaRegion", replica)
    call.require("ReplicateKey", key, context=there)
    call.keystore.require_region(replica)
    shown = key.to_aws()
    kind = _kind(str(shown["KeySpec"]), str(shown["KeyUsage"]), str(shown["Origin"]), "REPLICA")
    context = merge(there, kind, _bypass(call), _tags(call), parameter("aws:RequestedRegion", replica))
    call.keystore.authorize(replica, call.caller, "CreateKey", context=context)
    if call.parameters.get("Tags"):
        arn = key.arn_in(Region(replica))
        call.keystore.authorize(replica, call.caller, "TagResource", resource=arn, context=context)


def _update_primary_region(call: ActionCall) -> None:
    """On the primary, and on the replica that is to be the primary, by the policies of each region."""
    region, key = call.text("PrimaryRegion"), call.key(aliases=False)
    context = parameter("kms:PrimaryRegion", region)
    call.require("UpdatePrimaryRegion", key, context=context)
    call.keystore.require_region(region)
    if region in key.related_regions:
        replica = call.keystore.resolve(key.arn_in(Region(region)))
        there = merge(context, parameter("aws:RequestedRegion", region))
        call.keystore.authorize(region, call.caller, "UpdatePrimaryRegion", replica, context=there)


PERMISSIONS: Final[Mapping[str, Permission]] = {
    "CreateKey": _create_key,
    "DescribeKey": _using_key("DescribeKey"),
    "ListKeys": _on_account("ListKeys"),
    "UpdateKeyDescription": _on_key("UpdateKeyDescription"),
    "EnableKey": _on_key("EnableKey"),
    "DisableKey": _on_key("DisableKey"),
    "ScheduleKeyDeletion": _on_key("ScheduleKeyDeletion", _window),
    "CancelKeyDeletion": _on_key("CancelKeyDeletion"),
    "CreateAlias": _alias("CreateAlias", target=True, old=False),
    "UpdateAlias": _alias("UpdateAlias", target=True, old=True),
    "DeleteAlias": _alias("DeleteAlias", target=False, old=True),
    "ListAliases": _on_account("ListAliases"),
    "Encrypt": _using_key("Encrypt"),
    "Decrypt": _decrypt,
    "ReEncrypt": _re_encrypt,
    "GenerateDataKey": _using_key("GenerateDataKey"),
    "GenerateDataKeyWithoutPlaintext": _using_key("GenerateDataKeyWithoutPlaintext"),
    "GenerateRandom": _on_account("GenerateRandom"),
    "TagResource": _on_key("TagResource", _tags),
    "UntagResource": _on_key("UntagResource", _tag_keys),
    "ListResourceTags": _on_key("ListResourceTags"),
    "PutKeyPolicy": _on_key("PutKeyPolicy", _policy_name, _bypass),
    "GetKeyPolicy": _on_key("GetKeyPolicy", _policy_name),
    "ListKeyPolicies": _on_key("ListKeyPolicies"),
    "CreateGrant": _create_grant,
    "ListGrants": _on_key("ListGrants", _grants_alone),
    "ListRetirableGrants": _list_retirable_grants,
    "RetireGrant": _retire_grant,
    "RevokeGrant": _on_key("RevokeGrant", _grants_alone),
    "EnableKeyRotation": _on_key("EnableKeyRotation", _period),
    "DisableKeyRotation": _on_key("DisableKeyRotation"),
    "GetKeyRotationStatus": _on_key("GetKeyRotationStatus"),
    "RotateKeyOnDemand": _on_key("RotateKeyOnDemand"),
    "ListKeyRotations": _on_key("ListKeyRotations"),
    "GetParametersForImport": _on_key(
        "GetParametersForImport",
        _given(WrappingAlgorithm="kms:WrappingAlgorithm", WrappingKeySpec="kms:WrappingKeySpec"),
    ),
    "ImportKeyMaterial": _on_key(
        "ImportKeyMaterial", _given(ExpirationModel="kms:ExpirationModel", ValidTo="kms:ValidTo")
    ),
    "DeleteImportedKeyMaterial": _on_key("DeleteImportedKeyMaterial"),
    "ReplicateKey": _replicate_key,
    "UpdatePrimaryRegion": _update_primary_region,
    "GenerateMac": _using_key("GenerateMac", _given(MacAlgorithm="kms:MacAlgorithm")),
    "VerifyMac": _using_key("VerifyMac", _given(MacAlgorithm="kms:MacAlgorithm")),
    "GetKeyLastUsage": _on_key("GetKeyLastUsage"),
}

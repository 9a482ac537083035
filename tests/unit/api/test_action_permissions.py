"""Every action of the service is authorised, by the permissions that AWS names and by no fewer."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from testkit.policy_cases import allow, deny, policy, text

from kmsfs.api.actions import ACTIONS
from kmsfs.api.asking import Asker, Peer, caller_of
from kmsfs.api.calls import ActionCall
from kmsfs.api.dispatch import HANDLERS, carry_out
from kmsfs.api.permissions import PERMISSIONS
from kmsfs.api.refusal import Refusal
from kmsfs.api.wire import Call
from kmsfs.errors import AccessDeniedError, InvalidGrantTokenError
from kmsfs.keystore.access import NewGrant
from kmsfs.keystore.authorize import Caller
from kmsfs.keystore.model import GrantEntry, KeyMetadata
from kmsfs.keystore.policy.context import Values
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
ACCOUNT = "000000000000"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
PEER = Peer("192.0.2.7", True)


@dataclass
class World:
    """A keystore with two keys, a blob and a grant, and alice, whose identity policy is the test's."""

    keystore: Keystore
    key: KeyMetadata
    other: KeyMetadata
    blob: bytes
    entry: GrantEntry
    token: str

    def give(self, *permissions: str, **more: Any) -> None:
        """Let alice do only that."""
        self.keystore.principals.put_policy(
            "alice", text(policy(allow([f"kms:{name}" for name in permissions] or "s3:*", **more)))
        )

    def check(self, action: str, parameters: Mapping[str, object]) -> None:
        """Authorise a request of alice's."""
        PERMISSIONS[action](ActionCall(self.keystore, US, action, parameters, Caller("alice")))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Keystore.open(tmp_path_factory.mktemp("authz") / "home", via="server") as keystore:
        for region in (US, EU):
            keystore.add_region(region)
        keystore.principals.create("alice")
        key = keystore.create_key(US, alias="alias/main")
        other = keystore.create_key(US, alias="alias/other")
        blob = keystore.encrypt(key.arn, b"x", {"a": "b"}).blob
        entry, token = keystore.create_grant(key.arn, NewGrant(ROOT, frozenset({"Decrypt"})))
        yield World(keystore, key, other, blob, entry, token)


def samples(world: World) -> dict[str, tuple[dict[str, object], tuple[str, ...]]]:
    """One request of each action, and the permissions that it needs; each of them, and no other."""
    key, other = {"KeyId": world.key.key_id}, world.other.arn
    tags = [{"TagKey": "a", "TagValue": "b"}]
    blob = {"CiphertextBlob": world.blob}
    alias = {"AliasName": "alias/main"}
    mac: dict[str, object] = {**key, "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}
    simple = (
        "DescribeKey", "EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion",
        "ListResourceTags", "GetKeyPolicy", "ListKeyPolicies", "ListGrants", "EnableKeyRotation",
        "DisableKeyRotation", "GetKeyRotationStatus", "RotateKeyOnDemand", "ListKeyRotations",
        "DeleteImportedKeyMaterial", "GetKeyLastUsage", "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
    )  # fmt: skip
    more: dict[str, dict[str, object]] = {
        "ListKeys": {}, "ListAliases": {}, "GenerateRandom": {}, "ListRetirableGrants": {"RetiringPrincipal": ROOT},
        "UpdateKeyDescription": {**key, "Description": ""}, "Encrypt": {**key, "Plaintext": b"x"},
        "TagResource": {**key, "Tags": tags}, "UntagResource": {**key, "TagKeys": ["a"]},
        "PutKeyPolicy": {**key, "Policy": "{}"}, "Decrypt": blob,
        "CreateGrant": {**key, "GranteePrincipal": ROOT, "Operations": ["Decrypt"]},
        "RevokeGrant": {**key, "GrantId": world.entry.grant.grant_id},
        "CreateAlias": {"AliasName": "alias/new", "TargetKeyId": other},
        "UpdateAlias": {**alias, "TargetKeyId": other}, "DeleteAlias": alias,
        "GetParametersForImport": {
            **key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_4096"
        },
        "ImportKeyMaterial": {
            **key, "ImportToken": b"x", "EncryptedKeyMaterial": b"x", "ValidTo": datetime(2030, 1, 1, tzinfo=UTC)
        },
        "UpdatePrimaryRegion": {**key, "PrimaryRegion": EU}, "GenerateMac": mac, "VerifyMac": {**mac, "Mac": b"x"},
    }  # fmt: skip
    return {
        **{action: (dict[str, object](key), (action,)) for action in simple},
        **{action: (parameters, (action,)) for action, parameters in more.items()},
        "CreateKey": ({"Tags": tags}, ("CreateKey", "TagResource")),
        "ReEncrypt": ({**blob, "DestinationKeyId": other}, ("ReEncryptFrom", "ReEncryptTo")),
        "ReplicateKey": (
            {**key, "ReplicaRegion": EU, "Tags": tags},
            ("ReplicateKey", "CreateKey", "TagResource"),
        ),
    }


def test_every_action_is_authorised() -> None:
    assert set(PERMISSIONS) == set(ACTIONS)
    assert set(HANDLERS) <= set(PERMISSIONS)


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "RetireGrant"])
def test_an_action_needs_its_permissions_and_no_others(world: World, action: str) -> None:
    parameters, needed = samples(world)[action]
    for missing in needed:
        world.give(*(name for name in needed if name != missing))
        with pytest.raises(AccessDeniedError, match=f"{ALICE} is not authorized to perform: kms:{missing} "):
            world.check(action, parameters)
    world.give(*needed)
    world.check(action, parameters)


@pytest.mark.parametrize("by_token", [False, True])
def test_a_grant_is_retired_by_whom_it_names(world: World, by_token: bool) -> None:
    by_id = {"KeyId": world.key.arn, "GrantId": world.entry.grant.grant_id}
    parameters: dict[str, object] = {"GrantToken": world.token} if by_token else dict[str, object](by_id)
    world.give("RetireGrant")
    with pytest.raises(AccessDeniedError, match="kms:RetireGrant"):
        world.check("RetireGrant", parameters)
    PERMISSIONS["RetireGrant"](ActionCall(world.keystore, US, "RetireGrant", parameters, Caller("root")))


@pytest.mark.parametrize("action", ["CreateAlias", "UpdateAlias", "DeleteAlias"])
def test_an_alias_needs_permission_on_itself_and_on_its_keys(world: World, action: str) -> None:
    parameters, _ = samples(world)[action]
    name = f"arn:aws:kms:{US}:{ACCOUNT}:{parameters['AliasName']}"
    keys = {
        "CreateAlias": [world.other.arn],
        "UpdateAlias": [world.key.arn, world.other.arn],
        "DeleteAlias": [world.key.arn],
    }[action]
    for missing in (name, *keys):
        world.give(action, Resource=[arn for arn in (name, *keys) if arn != missing])
        with pytest.raises(AccessDeniedError, match=f"kms:{action} on resource: {missing}"):
            world.check(action, parameters)
    world.give(action, Resource=[name, *keys])
    world.check(action, parameters)


def test_a_tag_on_a_new_key_can_be_limited_to_a_region(world: World) -> None:
    parameters, needed = samples(world)["CreateKey"]
    region = f"arn:aws:kms:{US}:{ACCOUNT}:key/*"
    statements = [allow("kms:CreateKey"), {**allow("kms:TagResource"), "Resource": region}]
    world.keystore.principals.put_policy("alice", text(policy(*statements)))
    world.check("CreateKey", parameters)
    assert needed == ("CreateKey", "TagResource")


# --- the facts that policies may ask about ------------------------------------------------------
CONTEXT = {"EncryptionContext": {"team": "blue"}}
FACTS: list[tuple[str, dict[str, object], Values]] = [
    ("Encrypt", {"KeyId": "alias/main", **CONTEXT}, {"kms:RequestAlias": ("alias/main",)}),
    ("Encrypt", CONTEXT, {"kms:EncryptionAlgorithm": ("SYMMETRIC_DEFAULT",)}),
    ("Encrypt", CONTEXT, {"kms:EncryptionContext:team": ("blue",), "kms:EncryptionContextKeys": ("team",)}),
    ("Encrypt", {}, {"kms:ResourceAliases": ("alias/main",), "kms:KeySpec": ("SYMMETRIC_DEFAULT",)}),
    ("GenerateDataKey", CONTEXT, {"kms:EncryptionContext:team": ("blue",)}),
    ("Decrypt", {"KeyId": "alias/main"}, {"kms:RequestAlias": ("alias/main",)}),
    (
        "ReEncrypt",
        {"DestinationKeyId": "alias/main"},
        {"kms:ReEncryptOnSameKey": ("true",), "kms:EncryptionAlgorithm": ("SYMMETRIC_DEFAULT",)},
    ),
    ("ReEncrypt", {}, {"kms:ReEncryptOnSameKey": ("false",)}),
    (
        "CreateKey",
        {},
        {
            "kms:KeySpec": ("SYMMETRIC_DEFAULT",),
            "kms:KeyUsage": ("ENCRYPT_DECRYPT",),
            "kms:KeyOrigin": ("AWS_KMS",),
            "kms:MultiRegion": ("false",),
            "kms:BypassPolicyLockoutSafetyCheck": ("false",),
            "aws:RequestTag/a": ("b",),
            "aws:TagKeys": ("a",),
        },
    ),
    (
        "CreateKey",
        {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC", "Origin": "EXTERNAL", "MultiRegion": True},
        {
            "kms:CustomerMasterKeySpec": ("HMAC_256",),
            "kms:CustomerMasterKeyUsage": ("GENERATE_VERIFY_MAC",),
            "kms:KeyOrigin": ("EXTERNAL",),
            "kms:MultiRegion": ("true",),
            "kms:MultiRegionKeyType": ("PRIMARY",),
        },
    ),
    ("TagResource", {}, {"aws:RequestTag/a": ("b",)}),
    ("UntagResource", {}, {"aws:TagKeys": ("a",)}),
    (
        "PutKeyPolicy",
        {"BypassPolicyLockoutSafetyCheck": True},
        {"kms:BypassPolicyLockoutSafetyCheck": ("true",)},
    ),
    ("ScheduleKeyDeletion", {}, {"kms:ScheduleKeyDeletionPendingWindowInDays": ("30",)}),
    (
        "ScheduleKeyDeletion",
        {"PendingWindowInDays": 7},
        {"kms:ScheduleKeyDeletionPendingWindowInDays": ("7",)},
    ),
    ("EnableKeyRotation", {}, {"kms:RotationPeriodInDays": ("365",)}),
    ("EnableKeyRotation", {"RotationPeriodInDays": 90}, {"kms:RotationPeriodInDays": ("90",)}),
    (
        "CreateGrant",
        {"RetiringPrincipal": ROOT, "Constraints": {"EncryptionContextSubset": {"team": "blue"}}},
        {
            "kms:GrantOperations": ("Decrypt",),
            "kms:GranteePrincipal": (ROOT,),
            "kms:RetiringPrincipal": (ROOT,),
            "kms:GrantConstraintType": ("EncryptionContextSubset",),
            "kms:GrantIsForAWSResource": ("false",),
            "kms:EncryptionContext:team": ("blue",),
        },
    ),
    ("RevokeGrant", {}, {"kms:GrantIsForAWSResource": ("false",)}),
    ("ImportKeyMaterial", {}, {"kms:ValidTo": ("2030-01-01T00:00:00Z",)}),
    ("GetParametersForImport", {}, {"kms:WrappingKeySpec": ("RSA_4096",)}),
    ("GenerateMac", {}, {"kms:MacAlgorithm": ("HMAC_SHA_256",)}),
    ("ReplicateKey", {}, {"kms:ReplicaRegion": (EU,)}),
    ("UpdatePrimaryRegion", {}, {"kms:PrimaryRegion": (EU,)}),
]


@pytest.mark.parametrize(("action", "more", "facts"), FACTS, ids=lambda value: str(value)[:40])
def test_policies_see_the_request(world: World, action: str, more: dict[str, object], facts: Values) -> None:
    parameters, needed = samples(world)[action]
    # Only the permissions on the region's own resources: those carry the facts.
    for key, values in facts.items():
        equal = {"ForAllValues:StringEquals": {key: list(values)}, "Null": {key: "false"}}
        world.give(*needed, Condition=equal)
        world.check(action, {**parameters, **more})
        world.give(*needed, Condition={"ForAnyValue:StringNotEquals": {key: list(values)}})
        with pytest.raises(AccessDeniedError):
            world.check(action, {**parameters, **more})


@pytest.mark.parametrize(
    ("action", "key", "value"),
    [
        ("CreateKey", "kms:MultiRegion", "true"),
        ("CreateKey", "kms:MultiRegionKeyType", "REPLICA"),
        ("CreateKey", "kms:KeySpec", "SYMMETRIC_DEFAULT"),
        ("CreateKey", "kms:KeyOrigin", "AWS_KMS"),
        ("CreateKey", "aws:RequestedRegion", EU),
        ("TagResource", "aws:RequestedRegion", EU),
    ],
)
def test_a_replica_is_asked_for_as_a_key_of_its_region(
    world: World, action: str, key: str, value: str
) -> None:
    never = deny(f"kms:{action}", Condition={"StringEquals": {key: value}})
    world.keystore.principals.put_policy("alice", text(policy(allow("kms:*"), never)))
    parameters, _ = samples(world)["ReplicateKey"]
    with pytest.raises(AccessDeniedError, match=f"to perform: kms:{action} "):
        world.check("ReplicateKey", parameters)


def test_a_tag_of_a_replica_is_a_tag_of_a_key(world: World) -> None:
    parameters, _ = samples(world)["ReplicateKey"]
    tagging = {**allow("kms:TagResource"), "Resource": f"arn:aws:kms:{EU}:{ACCOUNT}:key/*"}
    creating = allow(["kms:ReplicateKey", "kms:CreateKey"])
    world.keystore.principals.put_policy("alice", text(policy(creating, tagging)))
    world.check("ReplicateKey", parameters)
    world.keystore.principals.put_policy("alice", text(policy(allow("kms:*"), {**tagging, "Effect": "Deny"})))
    with pytest.raises(AccessDeniedError, match=f"TagResource on resource: arn:aws:kms:{EU}"):
        world.check("ReplicateKey", parameters)


def test_a_primary_is_asked_for_as_what_it_is(world: World) -> None:
    primary = deny("kms:CreateKey", Condition={"StringEquals": {"kms:MultiRegionKeyType": "PRIMARY"}})
    world.keystore.principals.put_policy("alice", text(policy(allow("kms:*"), primary)))
    world.check("CreateKey", {})
    with pytest.raises(AccessDeniedError, match="CreateKey"):
        world.check("CreateKey", {"MultiRegion": True})


def test_a_new_primary_is_asked_for_in_its_region(world: World) -> None:
    key = world.keystore.create_key(US, multi_region=True)
    world.keystore.replicate_key(key.arn, EU)
    there = {"KeyId": key.key_id, "PrimaryRegion": EU}
    elsewhere = deny("kms:*", Condition={"StringEquals": {"aws:RequestedRegion": EU}})
    world.keystore.principals.put_policy("alice", text(policy(allow("kms:*"), elsewhere)))
    with pytest.raises(AccessDeniedError, match=f"UpdatePrimaryRegion on resource: arn:aws:kms:{EU}"):
        world.check("UpdatePrimaryRegion", there)
    world.give("UpdatePrimaryRegion")
    world.check("UpdatePrimaryRegion", there)


def test_a_key_named_by_id_has_no_request_alias(world: World) -> None:
    world.give("Encrypt", Condition={"Null": {"kms:RequestAlias": "true"}})
    world.check("Encrypt", {"KeyId": world.key.arn, "Plaintext": b"x"})


def test_circumstances_of_a_request(world: World) -> None:
    made = world.keystore.credentials.create("alice")
    asker = Asker(made.access_key_id, US, "request", PEER, "aws-cli/1")
    caller = caller_of(world.keystore, asker, 1.5)
    assert caller.name == "alice"
    assert dict(caller.circumstances) == {
        "aws:currenttime": ("1970-01-01T00:00:01Z",),
        "aws:epochtime": ("1",),
        "aws:requestedregion": (US,),
        "aws:securetransport": ("true",),
        "aws:sourceip": ("192.0.2.7",),
        "aws:useragent": ("aws-cli/1",),
    }
    bare = caller_of(world.keystore, Asker(made.access_key_id, US, "", Peer("", False)), 1.5)
    assert not {"aws:sourceip", "aws:useragent"} & set(bare.circumstances)
    assert bare.circumstances["aws:securetransport"] == ("false",)
    world.keystore.credentials.delete(made.access_key_id)
    with pytest.raises(Refusal) as refusal:
        caller_of(world.keystore, asker, 1.5)
    assert refusal.value.code == "UnrecognizedClientException"


def test_grant_tokens_must_be_those_of_grants(world: World) -> None:
    world.give("Encrypt", "CreateGrant")
    for action in ("Encrypt", "CreateGrant"):
        parameters, _ = samples(world)[action]
        world.check(action, {**parameters, "GrantTokens": [world.token]})
        with pytest.raises(InvalidGrantTokenError):
            world.check(action, {**parameters, "GrantTokens": [world.token, "QUFB"]})


def test_a_refusal_is_recorded_with_its_principal(world: World, tmp_path: Path) -> None:
    world.give("DescribeKey")
    made = world.keystore.credentials.create("alice")
    asker = Asker(made.access_key_id, US, "the-request", PEER)
    for action in ("DisableKey", "CreateGrant", "ListKeys"):
        parameters, _ = samples(world)[action]
        with pytest.raises(Refusal) as refusal:
            carry_out(world.keystore, asker, Call(action, parameters))
        assert refusal.value.code == "AccessDeniedException"
    carry_out(world.keystore, asker, Call("DescribeKey", {"KeyId": world.key.arn}))
    records = [
        record for record in world.keystore.audits.read(world.key.region)
        if record.get("request_id") == "the-request"
    ]  # fmt: skip
    assert [(record["action"], record["key"]) for record in records] == [
        ("DisableKey", world.key.arn), ("CreateGrant", world.key.arn), ("ListKeys", None)
    ]  # fmt: skip
    assert {(record["principal"], record["via"], record["result"], record["uid"]) for record in records} == {
        (ALICE, "server", "AccessDeniedError", os.getuid())
    }

"""Requests of every action, and what a broken or hostile client makes of them."""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

ROOT = "arn:aws:iam::000000000000:root"
CONTEXT = {"tenant": "42"}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"}],
}

Edits = list[tuple[int, int, bytes]]


def good_requests(key: str, spare: str, blob: str) -> Mapping[str, Mapping[str, Any]]:
    """Return a good request of every action; ``spare`` is the key that may be spoilt."""
    used = {"KeyId": key, "EncryptionContext": CONTEXT, "GrantTokens": ["token"], "DryRun": False}
    paged = {"KeyId": key, "Limit": 10, "Marker": "marker"}
    tags = [{"TagKey": "team", "TagValue": "blue"}]
    policy = {"Policy": json.dumps(POLICY), "BypassPolicyLockoutSafetyCheck": False}
    mac = {"KeyId": key, "Message": "eA==", "MacAlgorithm": "HMAC_SHA_256"}
    return {
        "CancelKeyDeletion": {"KeyId": spare},
        "CreateAlias": {"AliasName": "alias/fuzzed", "TargetKeyId": key},
        "CreateGrant": {
            "KeyId": spare,
            "GranteePrincipal": ROOT,
            "RetiringPrincipal": ROOT,
            "Operations": ["Decrypt", "Encrypt"],
            "Constraints": {"EncryptionContextSubset": CONTEXT},
            "Name": "grant",
        },
        "CreateKey": {**policy, "Description": "d", "Tags": tags, "KeyUsage": "ENCRYPT_DECRYPT"},
        "Decrypt": {**used, "CiphertextBlob": blob},
        "DeleteAlias": {"AliasName": "alias/fuzzed"},
        "DeleteImportedKeyMaterial": {"KeyId": key},
        "DescribeKey": {"KeyId": key, "GrantTokens": ["token"]},
        "DisableKey": {"KeyId": spare},
        "DisableKeyRotation": {"KeyId": spare},
        "EnableKey": {"KeyId": spare},
        "EnableKeyRotation": {"KeyId": spare, "RotationPeriodInDays": 90},
        "Encrypt": {**used, "Plaintext": "c2VjcmV0"},
        "GenerateDataKey": {**used, "KeySpec": "AES_256"},
        "GenerateDataKeyWithoutPlaintext": {**used, "NumberOfBytes": 32},
        "GenerateMac": mac,
        "GenerateRandom": {"NumberOfBytes": 32},
        "GetKeyLastUsage": {"KeyId": key},
        "GetKeyPolicy": {"KeyId": key, "PolicyName": "default"},
        "GetKeyRotationStatus": {"KeyId": key},
        "GetParametersForImport": {
            "KeyId": key,
            "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
            "WrappingKeySpec": "RSA_2048",
        },
        "ImportKeyMaterial": {"KeyId": key, "ImportToken": blob, "EncryptedKeyMaterial": blob, "ValidTo": 1},
        "ListAliases": paged,
        "ListGrants": {**paged, "GranteePrincipal": ROOT},
        "ListKeyPolicies": paged,
        "ListKeyRotations": {**paged, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"},
        "ListKeys": {"Limit": 10, "Marker": "marker"},
        "ListResourceTags": paged,
        "ListRetirableGrants": {"RetiringPrincipal": ROOT, "Limit": 10},
        "PutKeyPolicy": {"KeyId": spare, "PolicyName": "default", **policy},
        "ReEncrypt": {
            "CiphertextBlob": blob,
            "SourceEncryptionContext": CONTEXT,
            "DestinationKeyId": key,
            "DestinationEncryptionContext": {},
        },
        "ReplicateKey": {"KeyId": key, "ReplicaRegion": "us-east-1"},
        "RetireGrant": {"GrantToken": "token"},
        "RevokeGrant": {"KeyId": spare, "GrantId": "0" * 64},
        "RotateKeyOnDemand": {"KeyId": spare},
        "ScheduleKeyDeletion": {"KeyId": spare, "PendingWindowInDays": 7},
        "TagResource": {"KeyId": spare, "Tags": tags},
        "UntagResource": {"KeyId": spare, "TagKeys": ["team"]},
        "UpdateAlias": {"AliasName": "alias/fuzzed", "TargetKeyId": key},
        "UpdateKeyDescription": {"KeyId": spare, "Description": "d"},
        "UpdatePrimaryRegion": {"KeyId": key, "PrimaryRegion": "us-east-1"},
        "VerifyMac": {**mac, "Mac": "eA=="},
    }


_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 1e308, -0.0, 0.5),
    *(
        "",
        " ",
        "x",
        "x" * 257,
        "é" * 3000,
        "\x00",
        "\ud800",
        "\U0001f511",
        "null",
        "*",
        "{}",
        "{text}",
        "%s%n",
    ),
    *("alias/", "alias/aws/kmsfs", "alias/fuzzed", "alias/a:b", "alias/" + "a" * 251, "../../etc/passwd"),
    "arn:aws:kms:eu-west-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef",
    "arn:aws:kms:us-east-1:999999999999:alias/files",
    *("arn:aws:kms:::", "arn:aws:iam::000000000000:user/nobody", "*", "eA==", "eA", "====", "S01TQgEB"),
    *([], {}, [None], [[]], {"": ""}, {"a": None}, [{"TagKey": "a"}], ["Decrypt"] * 3),
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow"}]},
]

_POLICY_TEXTS = [
    json.dumps({**POLICY, "Statement": [{**POLICY["Statement"][0], **change}]})  # type: ignore[dict-item]
    for change in (
        {"Principal": "*"},
        {"Action": []},
        {"NotAction": "kms:Decrypt"},
        {"Condition": {"StringLike": {"kms:EncryptionContext:a": ["*?*?*?*?*?*"]}}},
        {"Condition": {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": [1, True, None]}}},
        {"Condition": {"Null": {"kms:ViaService": "maybe"}}},
        {"Resource": ["${aws:username}", "${", "$"]},
        {"Sid": "x" * 40_000},
    )
]

# Copied: what is put into a request may be changed there in the next step.
odd_values = st.one_of(
    st.sampled_from([*_ODD, *_POLICY_TEXTS]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
).map(deepcopy)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, position) of every value within."""
    if isinstance(value, dict):
        return [place for name in value for place in [(value, name), *_places(value[name])]]
    if isinstance(value, list):
        return [place for at in range(len(value)) for place in [(value, at), *_places(value[at])]]
    return []


@st.composite
def changed_requests(draw: st.DrawFn, requests: Mapping[str, Mapping[str, Any]]) -> tuple[str, bytes]:
    """Return an action and a body that is some steps away from a good one of it, or of another."""
    action = draw(st.sampled_from(sorted(requests)))
    source = draw(st.sampled_from(sorted(requests))) if draw(st.integers(0, 9)) == 0 else action
    body = json.loads(json.dumps(requests[source]))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(body)
        manner = draw(st.sampled_from(["replace", "replace", "remove", "add", "whole"]))
        if manner == "add" or not places:
            body[draw(st.sampled_from(["", "KeyId", "DryRun", "Policy", "GrantTokens", "Unknown"]))] = draw(
                odd_values
            )
            continue
        container, position = draw(st.sampled_from(places))
        if manner == "remove":
            del container[position]
        else:
            container[position] = draw(odd_values)
    return action, json.dumps(body).encode()


edits = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), max_size=4)


def edited(source: bytes, changes: Edits) -> bytes:
    """Return bytes with some cut out and others put in."""
    for position, length, replacement in changes:
        at = position % (len(source) + 1)
        source = source[:at] + replacement + source[at + length :]
    return source

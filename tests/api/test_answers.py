"""Every action that is answered has an answer of AWS's shape, and the checker that says so can say no."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from testkit.aws_shapes import output_problems
from testkit.wrapping import wrap

from kmsfs.api.dispatch import HANDLERS

Call = Callable[[Any, Any], object]


def blob(us: Any, key: Any) -> bytes:
    return us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]


def named(us: Any, key: Any) -> str:
    name = f"alias/of-{key['KeyId']}"
    us.create_alias(AliasName=name, TargetKeyId=key["KeyId"])
    return name


def doomed(us: Any, key: Any) -> str:
    return us.schedule_key_deletion(KeyId=key["KeyId"])["KeyId"]


def policy_of(us: Any, key: Any) -> str:
    return us.get_key_policy(KeyId=key["KeyId"], PolicyName="default")["Policy"]


def root_of(key: Any) -> str:
    return f"arn:aws:iam::{key['AWSAccountId']}:root"


def granted(us: Any, key: Any) -> Any:
    return us.create_grant(
        KeyId=key["KeyId"],
        GranteePrincipal=root_of(key),
        RetiringPrincipal=root_of(key),
        Operations=["Decrypt"],
        Constraints={"EncryptionContextSubset": {"a": "b"}},
        Name="a-name",
    )


def mac(us: Any) -> dict[str, Any]:
    key = us.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
    made = us.generate_mac(KeyId=key, Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"]
    return {"KeyId": key, "Mac": made}


def parameters(us: Any) -> Any:
    key = us.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    asked = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    return us.get_parameters_for_import(KeyId=key, **asked)


def imported(us: Any) -> Any:
    made = parameters(us)
    return us.import_key_material(
        KeyId=made["KeyId"],
        ImportToken=made["ImportToken"],
        EncryptedKeyMaterial=wrap(made["PublicKey"], "RSAES_OAEP_SHA_256", bytes(32)),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )


def replicated(us: Any) -> Any:
    primary = us.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    return us.replicate_key(KeyId=primary, ReplicaRegion=EU, Tags=TAGS)["ReplicaKeyMetadata"]


EU = "eu-west-1"
TAGS = [{"TagKey": "team", "TagValue": "blue"}]

#: One good call of each action; the client checks the answer (``testkit.aws_shapes.check_answer``).
CALLS: dict[str, Call] = {
    "CreateKey": lambda us, key: us.create_key(Description="d", Tags=TAGS),
    "DescribeKey": lambda us, key: us.describe_key(KeyId=doomed(us, key)),
    "GetKeyLastUsage": lambda us, key: (blob(us, key), us.get_key_last_usage(KeyId=key["KeyId"])),
    "ListKeys": lambda us, key: us.list_keys(Limit=1),
    "UpdateKeyDescription": lambda us, key: us.update_key_description(KeyId=key["KeyId"], Description=""),
    "EnableKey": lambda us, key: us.enable_key(KeyId=key["KeyId"]),
    "DisableKey": lambda us, key: us.disable_key(KeyId=key["KeyId"]),
    "ScheduleKeyDeletion": lambda us, key: us.schedule_key_deletion(KeyId=key["KeyId"]),
    "CancelKeyDeletion": lambda us, key: us.cancel_key_deletion(KeyId=doomed(us, key)),
    "CreateAlias": named,
    "UpdateAlias": lambda us, key: us.update_alias(AliasName=named(us, key), TargetKeyId=key["Arn"]),
    "DeleteAlias": lambda us, key: us.delete_alias(AliasName=named(us, key)),
    "ListAliases": lambda us, key: (named(us, key), us.list_aliases()),
    "Encrypt": blob,
    "Decrypt": lambda us, key: us.decrypt(CiphertextBlob=blob(us, key)),
    "ReEncrypt": lambda us, key: us.re_encrypt(CiphertextBlob=blob(us, key), DestinationKeyId=key["Arn"]),
    "GenerateDataKey": lambda us, key: us.generate_data_key(KeyId=key["Arn"], KeySpec="AES_128"),
    "GenerateDataKeyWithoutPlaintext": lambda us, key: us.generate_data_key_without_plaintext(
        KeyId=key["Arn"], NumberOfBytes=1
    ),
    "GenerateRandom": lambda us, key: us.generate_random(NumberOfBytes=1),
    "EnableKeyRotation": lambda us, key: us.enable_key_rotation(KeyId=key["KeyId"]),
    "DisableKeyRotation": lambda us, key: us.disable_key_rotation(KeyId=key["KeyId"]),
    "GetKeyRotationStatus": lambda us, key: (
        us.enable_key_rotation(KeyId=key["KeyId"]),
        us.get_key_rotation_status(KeyId=key["KeyId"]),
    ),
    "RotateKeyOnDemand": lambda us, key: us.rotate_key_on_demand(KeyId=key["KeyId"]),
    "ListKeyRotations": lambda us, key: (
        us.rotate_key_on_demand(KeyId=key["KeyId"]),
        us.list_key_rotations(KeyId=key["KeyId"], IncludeKeyMaterial="ALL_KEY_MATERIAL", Limit=1),
    ),
    "TagResource": lambda us, key: us.tag_resource(KeyId=key["KeyId"], Tags=TAGS),
    "UntagResource": lambda us, key: us.untag_resource(KeyId=key["KeyId"], TagKeys=["team"]),
    "PutKeyPolicy": lambda us, key: us.put_key_policy(KeyId=key["KeyId"], Policy=policy_of(us, key)),
    "GetKeyPolicy": policy_of,
    "ListKeyPolicies": lambda us, key: us.list_key_policies(KeyId=key["KeyId"], Limit=1),
    "CreateGrant": granted,
    "ListGrants": lambda us, key: (granted(us, key), us.list_grants(KeyId=key["KeyId"])),
    "ListRetirableGrants": lambda us, key: (
        granted(us, key),
        us.list_retirable_grants(RetiringPrincipal=root_of(key), Limit=1),
    ),
    "RetireGrant": lambda us, key: us.retire_grant(GrantToken=granted(us, key)["GrantToken"]),
    "RevokeGrant": lambda us, key: us.revoke_grant(KeyId=key["KeyId"], GrantId=granted(us, key)["GrantId"]),
    "ListResourceTags": lambda us, key: (
        us.tag_resource(KeyId=key["KeyId"], Tags=TAGS),
        us.list_resource_tags(KeyId=key["KeyId"]),
    ),
    "GetParametersForImport": lambda us, key: parameters(us),
    "ImportKeyMaterial": lambda us, key: imported(us),
    "DeleteImportedKeyMaterial": lambda us, key: us.delete_imported_key_material(KeyId=imported(us)["KeyId"]),
    "GenerateMac": lambda us, key: mac(us),
    "ReplicateKey": lambda us, key: replicated(us),
    "UpdatePrimaryRegion": lambda us, key: us.update_primary_region(
        KeyId=replicated(us)["KeyId"], PrimaryRegion=EU
    ),
    "VerifyMac": lambda us, key: us.verify_mac(Message=b"m", MacAlgorithm="HMAC_SHA_256", **mac(us)),
}


def test_every_action_has_a_call() -> None:
    assert set(CALLS) == set(HANDLERS)


@pytest.mark.parametrize("action", CALLS)
def test_the_answer_is_of_awss_shape(us: Any, key: Any, action: str) -> None:
    seen = []
    us.meta.events.register(
        "before-parse.kms", lambda operation_model, **_: seen.append(operation_model.name)
    )
    CALLS[action](us, key)
    assert seen[-1] == action


@pytest.mark.parametrize(
    ("action", "answer", "problem"),
    [
        ("ListKeys", {"Keys": [], "Truncated": 1}, "ListKeys.Truncated is int, not boolean"),
        ("ListKeys", {"Keys": [{"KeyId": ""}]}, "ListKeys.Keys[0].KeyId is of size 0, not 1 to 2048"),
        ("ListKeys", {"keys": []}, "ListKeys.keys is unknown"),
        ("Encrypt", {"CiphertextBlob": "x"}, "Encrypt.CiphertextBlob is not base64"),
        ("Decrypt", {"KeyMaterialId": "A" * 64}, "Decrypt.KeyMaterialId does not match ^[a-f0-9]+$"),
        ("DescribeKey", {"KeyMetadata": {}}, "DescribeKey.KeyMetadata.KeyId is missing"),
        (
            "GetKeyRotationStatus",
            {"NextRotationDate": "2030-01-01"},
            "GetKeyRotationStatus.NextRotationDate is str, not timestamp",
        ),
        ("EnableKey", {}, "EnableKey has no output, but answers b'{}'"),
    ],
)
def test_the_checker_finds(action: str, answer: object, problem: str) -> None:
    assert output_problems(action, json.dumps(answer).encode()) == [problem]

"""How requests name keys and aliases: which forms each action takes, and what it says of the others."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from testkit.serving import refused

NO_ALIAS = (
    'Alias must start with the prefix "alias/". Please see '
    "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
)
FOREIGN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

#: Actions by whether they take aliases, as AWS documents it of each.
WITH_ALIASES: dict[str, Callable[[Any, str, bytes], object]] = {
    "DescribeKey": lambda us, ref, blob: us.describe_key(KeyId=ref),
    "Encrypt": lambda us, ref, blob: us.encrypt(KeyId=ref, Plaintext=b"x"),
    "Decrypt": lambda us, ref, blob: us.decrypt(KeyId=ref, CiphertextBlob=blob),
    "ReEncrypt to": lambda us, ref, blob: us.re_encrypt(DestinationKeyId=ref, CiphertextBlob=blob),
    "ReEncrypt from": lambda us, ref, blob: us.re_encrypt(
        SourceKeyId=ref, DestinationKeyId=ref, CiphertextBlob=blob
    ),
    "GenerateDataKey": lambda us, ref, blob: us.generate_data_key(KeyId=ref, KeySpec="AES_256"),
    "GenerateDataKeyWithoutPlaintext": lambda us, ref, blob: us.generate_data_key_without_plaintext(
        KeyId=ref, NumberOfBytes=16
    ),
}
WITHOUT_ALIASES: dict[str, Callable[[Any, str], object]] = {
    "EnableKey": lambda us, ref: us.enable_key(KeyId=ref),
    "DisableKey": lambda us, ref: (us.disable_key(KeyId=ref), us.enable_key(KeyId=ref)),
    "UpdateKeyDescription": lambda us, ref: us.update_key_description(KeyId=ref, Description=""),
    "ScheduleKeyDeletion": lambda us, ref: (
        us.schedule_key_deletion(KeyId=ref),
        us.cancel_key_deletion(KeyId=ref),
        us.enable_key(KeyId=ref),
    ),
    "GetKeyPolicy": lambda us, ref: us.get_key_policy(KeyId=ref),
    "PutKeyPolicy": lambda us, ref: us.put_key_policy(
        KeyId=ref, Policy=us.get_key_policy(KeyId=ref)["Policy"]
    ),
    "ListKeyPolicies": lambda us, ref: us.list_key_policies(KeyId=ref),
    "TagResource": lambda us, ref: us.tag_resource(KeyId=ref, Tags=[]),
    "UntagResource": lambda us, ref: us.untag_resource(KeyId=ref, TagKeys=["none"]),
    "ListResourceTags": lambda us, ref: us.list_resource_tags(KeyId=ref),
    "ListGrants": lambda us, ref: us.list_grants(KeyId=ref),
    "ListAliases": lambda us, ref: us.list_aliases(KeyId=ref),
    "EnableKeyRotation": lambda us, ref: us.enable_key_rotation(KeyId=ref),
    "DisableKeyRotation": lambda us, ref: us.disable_key_rotation(KeyId=ref),
    "GetKeyRotationStatus": lambda us, ref: us.get_key_rotation_status(KeyId=ref),
    "RotateKeyOnDemand": lambda us, ref: us.rotate_key_on_demand(KeyId=ref),
    "ListKeyRotations": lambda us, ref: us.list_key_rotations(KeyId=ref),
}


@pytest.fixture
def alias(us: Any, key: Any) -> str:
    name = f"alias/of-{key['KeyId']}"
    us.create_alias(AliasName=name, TargetKeyId=key["KeyId"])
    return name


def alias_arn(key: Any, alias: str) -> str:
    return re.sub("key/.*", alias, key["Arn"])


@pytest.mark.parametrize("action", WITH_ALIASES)
def test_an_action_that_takes_every_form(us: Any, key: Any, alias: str, action: str) -> None:
    blob = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    for ref in (key["KeyId"], key["Arn"], alias, alias_arn(key, alias)):
        WITH_ALIASES[action](us, ref, blob)


@pytest.mark.parametrize("action", WITHOUT_ALIASES)
def test_an_action_that_takes_no_alias(us: Any, key: Any, alias: str, action: str) -> None:
    for ref in (key["KeyId"], key["Arn"]):
        WITHOUT_ALIASES[action](us, ref)
    for ref in (alias, alias_arn(key, alias)):
        wanted = ("NotFoundException", f"Invalid keyId '{ref}'")
        assert refused(lambda ref=ref: WITHOUT_ALIASES[action](us, ref)) == wanted  # type: ignore[misc]


def test_no_alias_leads_to_an_alias(us: Any, key: Any, alias: str) -> None:
    """It could lead to itself."""
    for ref in (alias, alias_arn(key, alias)):
        for call, name in ((us.create_alias, "alias/of-an-alias"), (us.update_alias, alias)):
            got = refused(lambda call=call, name=name, ref=ref: call(AliasName=name, TargetKeyId=ref))  # type: ignore[misc]
            assert got == ("ValidationException", "Aliases must refer to keys. Not aliases")


def test_a_key_of_another_account_is_called_by_its_own_name(us: Any) -> None:
    for call in (us.describe_key, us.disable_key):
        assert refused(lambda call=call: call(KeyId=FOREIGN)) == (  # type: ignore[misc]
            "NotFoundException",
            f"Key '{FOREIGN}' does not exist",
        )


def test_an_alias_of_another_account_is_one_that_is_not_there(us: Any) -> None:
    alias = re.sub("key/.*", "alias/files", FOREIGN)
    for call in (us.describe_key, lambda **named: us.encrypt(Plaintext=b"x", **named)):
        told = refused(lambda call=call: call(KeyId=alias))  # type: ignore[misc]
        assert told == ("NotFoundException", f"Alias {alias} is not found.")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("files", "ValidationException", NO_ALIAS),
        ("ALIAS/files", "ValidationException", NO_ALIAS),
        ("arn:aws:kms:us-east-1:000000000000:alias/files", "ValidationException", NO_ALIAS),
        ("alias/a:b", "ValidationException", "alias/a:b contains invalid characters for an alias"),
        ("alias/aws/files", "NotAuthorizedException", ""),
    ],
)
def test_an_alias_name_that_cannot_be(us: Any, key: Any, name: str, code: str, message: str) -> None:
    for call in (us.create_alias, us.update_alias):
        got = refused(lambda call=call: call(AliasName=name, TargetKeyId=key["KeyId"]))  # type: ignore[misc]
        assert got == (code, message)
    assert refused(lambda: us.delete_alias(AliasName=name)) == (code, message)


def test_nobody_shares_keys(us: Any, key: Any) -> None:
    def owned_by(*owners: str) -> list[str]:
        return [found["KeyId"] for found in us.list_keys(ResourceOwners=owners, Limit=1000)["Keys"]]

    assert key["KeyId"] in owned_by("SELF")
    assert owned_by("SELF", "OTHER_ACCOUNTS_VIA_RAM") == owned_by("SELF")
    assert owned_by("OTHER_ACCOUNTS_VIA_RAM") == []


@pytest.mark.parametrize("operation", ["Sign", "GenerateMac", "DeriveSharedSecret"])
def test_a_grant_allows_only_what_its_key_can_do(us: Any, key: Any, operation: str) -> None:
    def grant() -> object:
        return us.create_grant(
            KeyId=key["KeyId"],
            GranteePrincipal=f"arn:aws:iam::{key['AWSAccountId']}:root",
            Operations=["Decrypt", operation],
        )

    code, message = refused(grant)
    assert code == "ValidationException"
    assert operation in message
    assert us.list_grants(KeyId=key["KeyId"])["Grants"] == []

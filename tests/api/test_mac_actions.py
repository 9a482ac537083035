"""MAC keys over the wire: made, used, and refused for what they are not for."""

from typing import Any

import pytest
from testkit.serving import refused
from testkit.waiting import await_true

SPECS = {"HMAC_224": 28, "HMAC_256": 32, "HMAC_384": 48, "HMAC_512": 64}


def make(client: Any, spec: str = "HMAC_256") -> Any:
    return client.create_key(KeySpec=spec, KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_mac_is_made_and_verified(us: Any, spec: str) -> None:
    key, algorithm = make(us, spec), spec.replace("HMAC_", "HMAC_SHA_")
    assert (key["KeySpec"], key["KeyUsage"], key["MacAlgorithms"]) == (
        spec,
        "GENERATE_VERIFY_MAC",
        [algorithm],
    )
    assert not {"EncryptionAlgorithms", "CurrentKeyMaterialId"} & set(key)
    asked = {"KeyId": key["KeyId"], "MacAlgorithm": algorithm}
    for message in (b"m", b"m" * 4096):
        made = us.generate_mac(Message=message, **asked)
        assert len(made["Mac"]) == SPECS[spec]
        assert (made["KeyId"], made["MacAlgorithm"]) == (key["Arn"], algorithm)
        verified = us.verify_mac(Message=message, Mac=made["Mac"], **asked)
        assert verified["MacValid"] is True
    assert us.generate_mac(Message=b"m", **asked)["Mac"] == us.generate_mac(Message=b"m", **asked)["Mac"]


def test_a_mac_of_another_message_key_or_length_is_no_mac(us: Any) -> None:
    key, other = make(us)["KeyId"], make(us)["KeyId"]
    algorithm = "HMAC_SHA_256"
    mac = us.generate_mac(KeyId=key, Message=b"message", MacAlgorithm=algorithm)["Mac"]
    for name, message, tried in (
        (key, b"massage", mac),
        (other, b"message", mac),
        (key, b"message", mac[:-1]),
        (key, b"message", mac + b"\0"),
        (key, b"message", bytes([mac[0] ^ 1]) + mac[1:]),
    ):
        told = refused(
            lambda name=name, message=message, tried=tried: us.verify_mac(  # type: ignore[misc]
                KeyId=name, Message=message, Mac=tried, MacAlgorithm=algorithm
            )
        )
        assert told[0] == "KMSInvalidMacException"


def test_a_message_has_1_to_4096_bytes(served: Any, us: Any) -> None:
    asked = {"KeyId": make(us)["KeyId"], "MacAlgorithm": "HMAC_SHA_256"}
    unchecked = served.client("us-east-1", validation=False)
    for message in (b"", b"m" * 4097):
        code, _ = refused(lambda message=message: unchecked.generate_mac(Message=message, **asked))  # type: ignore[misc]
        assert code == "ValidationException"


def test_each_key_is_for_one_use(us: Any, key: Any) -> None:
    mac_key = make(us)["KeyId"]
    for use in (
        lambda: us.encrypt(KeyId=mac_key, Plaintext=b"x"),
        lambda: us.encrypt(KeyId=mac_key, Plaintext=b"x", DryRun=True),
        lambda: us.generate_data_key(KeyId=mac_key, KeySpec="AES_256"),
        lambda: us.re_encrypt(
            CiphertextBlob=us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"],
            DestinationKeyId=mac_key,
        ),
        lambda: us.generate_mac(KeyId=key["KeyId"], Message=b"m", MacAlgorithm="HMAC_SHA_256"),
        lambda: us.verify_mac(KeyId=key["KeyId"], Message=b"m", Mac=b"m", MacAlgorithm="HMAC_SHA_256"),
        lambda: us.generate_mac(KeyId=mac_key, Message=b"m", MacAlgorithm="HMAC_SHA_512"),
    ):
        assert refused(use)[0] == "InvalidKeyUsageException"


def test_its_material_does_not_change(us: Any) -> None:
    name = make(us)["KeyId"]
    for change in (
        lambda: us.enable_key_rotation(KeyId=name),
        lambda: us.disable_key_rotation(KeyId=name),
        lambda: us.rotate_key_on_demand(KeyId=name),
        lambda: us.list_key_rotations(KeyId=name),
    ):
        assert refused(change)[0] == "UnsupportedOperationException"
    assert us.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"] is False


def test_usage_and_spec_have_to_agree(us: Any) -> None:
    for wanted in (
        {"KeySpec": "HMAC_256"},
        {"KeySpec": "HMAC_256", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeyUsage": "GENERATE_VERIFY_MAC"},
    ):
        told = refused(lambda wanted=wanted: us.create_key(**wanted))  # type: ignore[misc]
        assert told[0] == "ValidationException"
    assert refused(lambda: us.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY"))[0] == (
        "UnsupportedOperationException"
    )


def test_states_and_dry_runs(us: Any) -> None:
    asked = {"KeyId": make(us)["Arn"], "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    mac = us.generate_mac(**asked)["Mac"]
    assert refused(lambda: us.generate_mac(**asked, DryRun=True))[0] == "DryRunOperationException"
    assert refused(lambda: us.verify_mac(**asked, Mac=b"x", DryRun=True))[0] == "DryRunOperationException"
    us.disable_key(KeyId=asked["KeyId"])
    for dry in (False, True):
        assert refused(lambda dry=dry: us.generate_mac(**asked, DryRun=dry))[0] == "DisabledException"  # type: ignore[misc]
    us.enable_key(KeyId=asked["KeyId"])
    assert us.verify_mac(**asked, Mac=mac)["MacValid"] is True
    us.schedule_key_deletion(KeyId=asked["KeyId"], PendingWindowInDays=7)
    assert refused(lambda: us.verify_mac(**asked, Mac=mac))[0] == "KMSInvalidStateException"


def test_a_grant_on_a_mac_key(served: Any, us: Any) -> None:
    made = served.home.json("credential", "create", "macs")
    user = served.client("us-east-1", access_key_id=made["AccessKeyId"], secret=made["SecretAccessKey"])
    key = make(us)
    arn = f"arn:aws:iam::{key['AWSAccountId']}:user/macs"
    asked = {"KeyId": key["Arn"], "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    await_true(lambda: refused(lambda: user.generate_mac(**asked))[0] == "AccessDeniedException")
    refusal = refused(
        lambda: us.create_grant(KeyId=key["KeyId"], GranteePrincipal=arn, Operations=["Encrypt"])
    )
    assert refusal[0] == "ValidationException"
    token = us.create_grant(KeyId=key["KeyId"], GranteePrincipal=arn, Operations=["GenerateMac"])[
        "GrantToken"
    ]
    mac = user.generate_mac(**asked, GrantTokens=[token])["Mac"]
    assert refused(lambda: user.verify_mac(**asked, Mac=mac))[0] == "AccessDeniedException"


def test_an_alias_moves_only_to_a_key_of_the_same_use(us: Any, key: Any) -> None:
    name, mac = f"alias/of-{key['KeyId']}", make(us)
    us.create_alias(AliasName=name, TargetKeyId=key["KeyId"])
    code, message = refused(lambda: us.update_alias(AliasName=name, TargetKeyId=mac["KeyId"]))
    assert (code, mac["Arn"] in message) == ("ValidationException", True)
    assert us.describe_key(KeyId=name)["KeyMetadata"]["Arn"] == key["Arn"]
    us.delete_alias(AliasName=name)
    us.create_alias(AliasName=name, TargetKeyId=mac["KeyId"])
    us.update_alias(AliasName=name, TargetKeyId=make(us, "HMAC_512")["KeyId"])

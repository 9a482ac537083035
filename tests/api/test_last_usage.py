"""GetKeyLastUsage over the wire."""

from datetime import UTC, datetime, timedelta
from typing import Any

from testkit.serving import refused


def test_the_last_use_with_its_request(us: Any, key: Any) -> None:
    unused = us.get_key_last_usage(KeyId=key["KeyId"])
    del unused["ResponseMetadata"]
    made = key["CreationDate"]
    assert unused == {
        "KeyId": key["KeyId"],
        "KeyLastUsage": {},
        "TrackingStartDate": made,
        "KeyCreationDate": made,
    }
    sealed = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")
    opened = us.decrypt(CiphertextBlob=sealed["CiphertextBlob"])
    us.describe_key(KeyId=key["KeyId"])
    last = us.get_key_last_usage(KeyId=key["Arn"])["KeyLastUsage"]
    assert timedelta() <= datetime.now(UTC) - last.pop("Timestamp") < timedelta(minutes=5)
    assert last == {"Operation": "Decrypt", "KmsRequestId": opened["ResponseMetadata"]["RequestId"]}


def test_a_refused_use_is_none_and_aliases_name_no_key(us: Any, key: Any) -> None:
    us.disable_key(KeyId=key["KeyId"])
    assert refused(lambda: us.encrypt(KeyId=key["KeyId"], Plaintext=b"x"))[0] == "DisabledException"
    assert us.get_key_last_usage(KeyId=key["KeyId"])["KeyLastUsage"] == {}
    name = f"alias/{key['KeyId']}"
    us.create_alias(AliasName=name, TargetKeyId=key["KeyId"])
    assert refused(lambda: us.get_key_last_usage(KeyId=name))[0] in (
        "NotFoundException",
        "InvalidArnException",
    )

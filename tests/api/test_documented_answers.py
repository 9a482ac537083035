"""Answers that AWS documents of single actions: what is refused, and what a dry run tells."""

from typing import Any

import pytest
from testkit.serving import Serving, refused

US = "us-east-1"
ROOT = "arn:aws:iam::000000000000:root"
NOBODY = "arn:aws:iam::000000000000:user/nobody"


@pytest.fixture(scope="module")
def mac_key(served: Serving) -> Any:
    return served.client(US).create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]


def test_a_constraint_stands_on_no_operation_without_an_encryption_context(us: Any, mac_key: Any) -> None:
    code, message = refused(
        lambda: us.create_grant(
            KeyId=mac_key["KeyId"],
            GranteePrincipal=ROOT,
            Operations=["GenerateMac", "DescribeKey"],
            Constraints={"EncryptionContextSubset": {"team": "blue"}},
        )
    )
    assert code == "ValidationException"
    assert "GenerateMac" in message
    assert us.list_grants(KeyId=mac_key["KeyId"])["Grants"] == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "DryRunOperationException"),
        ({"GranteePrincipal": NOBODY}, "InvalidArnException"),
        ({"RetiringPrincipal": NOBODY}, "InvalidArnException"),
        ({"Operations": ["GenerateMac"]}, "ValidationException"),
        ({"Operations": []}, "ValidationException"),
        ({"Constraints": {"EncryptionContextEquals": {"k": "v" * 385}}}, "ValidationException"),
    ],
)
def test_a_dry_run_tells_that_no_grant_would_be_made(us: Any, key: Any, more: Any, code: str) -> None:
    asked = {"KeyId": key["KeyId"], "GranteePrincipal": ROOT, "Operations": ["Decrypt"], **more}
    assert refused(lambda: us.create_grant(DryRun=True, **asked))[0] == code
    assert us.list_grants(KeyId=key["KeyId"])["Grants"] == []


def test_a_dry_run_tells_that_a_mac_key_has_another_algorithm(us: Any, mac_key: Any) -> None:
    asked = {"KeyId": mac_key["KeyId"], "Message": b"m", "DryRun": True}
    for algorithm, code in (
        ("HMAC_SHA_256", "DryRunOperationException"),
        ("HMAC_SHA_512", "InvalidKeyUsageException"),
    ):
        named = {"MacAlgorithm": algorithm, **asked}
        assert refused(lambda named=named: us.generate_mac(**named))[0] == code  # type: ignore[misc]
        assert refused(lambda named=named: us.verify_mac(Mac=b"x", **named))[0] == code  # type: ignore[misc]

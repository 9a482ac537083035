"""Multi-region keys over the wire: two regions, two tokens, one key."""

import json
from typing import Any

import pytest
from testkit.audits import records
from testkit.serving import Serving, refused

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"file": "1"}


@pytest.fixture
def primary(us: Any) -> Any:
    return us.create_key(MultiRegion=True, Description="shared")["KeyMetadata"]


def replicated(us: Any, primary: Any) -> Any:
    return us.replicate_key(KeyId=primary["KeyId"], ReplicaRegion=EU)["ReplicaKeyMetadata"]


def test_a_key_is_replicated_and_both_say_so(us: Any, eu: Any, primary: Any) -> None:
    assert primary["MultiRegionConfiguration"] == {
        "MultiRegionKeyType": "PRIMARY",
        "PrimaryKey": {"Arn": primary["Arn"], "Region": US},
        "ReplicaKeys": [],
    }
    answer = us.replicate_key(
        KeyId=primary["KeyId"],
        ReplicaRegion=EU,
        Description="its replica",
        Tags=[{"TagKey": "team", "TagValue": "blue"}],
    )
    replica = answer["ReplicaKeyMetadata"]
    assert replica["KeyId"] == primary["KeyId"]
    assert replica["Arn"] == primary["Arn"].replace(US, EU)
    assert (replica["Description"], replica["KeyState"]) == ("its replica", "Enabled")
    assert answer["ReplicaTags"] == [{"TagKey": "team", "TagValue": "blue"}]
    assert json.loads(answer["ReplicaPolicy"])["Statement"]
    related = {
        "PrimaryKey": {"Arn": primary["Arn"], "Region": US},
        "ReplicaKeys": [{"Arn": replica["Arn"], "Region": EU}],
    }
    for client, kind in ((us, "PRIMARY"), (eu, "REPLICA")):
        shown = client.describe_key(KeyId=primary["KeyId"])["KeyMetadata"]
        assert shown["MultiRegion"] is True
        assert shown["MultiRegionConfiguration"] == {"MultiRegionKeyType": kind, **related}


def test_what_one_region_encrypts_the_other_decrypts(us: Any, eu: Any, primary: Any, key: Any) -> None:
    replica = replicated(us, primary)
    for source, target, decrypts in ((us, eu, replica["Arn"]), (eu, us, primary["Arn"])):
        made = source.generate_data_key(KeyId=primary["KeyId"], KeySpec="AES_256", EncryptionContext=CONTEXT)
        found = target.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert found["Plaintext"] == made["Plaintext"]
        assert found["KeyId"] == decrypts
        assert found["KeyMaterialId"] == made["KeyMaterialId"] == primary["CurrentKeyMaterialId"]
        moved = target.re_encrypt(
            CiphertextBlob=made["CiphertextBlob"],
            SourceEncryptionContext=CONTEXT,
            DestinationKeyId=primary["KeyId"],
        )
        assert source.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    single = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert refused(lambda: eu.decrypt(CiphertextBlob=single))[0] == "AccessDeniedException"


def test_rotation_is_shared_and_the_primarys(us: Any, eu: Any, primary: Any) -> None:
    replicated(us, primary)
    name = primary["KeyId"]
    old = eu.encrypt(KeyId=name, Plaintext=b"old")["CiphertextBlob"]
    us.enable_key_rotation(KeyId=name, RotationPeriodInDays=90)
    us.rotate_key_on_demand(KeyId=name)
    assert eu.get_key_rotation_status(KeyId=name)["RotationPeriodInDays"] == 90
    new = us.encrypt(KeyId=name, Plaintext=b"new")["CiphertextBlob"]
    for client in (us, eu):
        assert [client.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in (old, new)] == [b"old", b"new"]
    assert us.list_key_rotations(KeyId=name)["Rotations"] == eu.list_key_rotations(KeyId=name)["Rotations"]
    for change in (eu.rotate_key_on_demand, eu.enable_key_rotation, eu.disable_key_rotation):
        assert refused(lambda change=change: change(KeyId=name))[0] == "UnsupportedOperationException"


def test_what_is_refused(us: Any, eu: Any, primary: Any, key: Any) -> None:
    name = primary["KeyId"]
    code, said = refused(lambda: us.replicate_key(KeyId=name, ReplicaRegion="us-west-2"))
    assert (code, said) == ("ValidationException", "region us-west-2 is not configured")
    replicated(us, primary)
    for call, expected in (
        (lambda: us.replicate_key(KeyId=name, ReplicaRegion=EU), "AlreadyExistsException"),
        (lambda: us.replicate_key(KeyId=name, ReplicaRegion=US), "AlreadyExistsException"),
        (lambda: eu.replicate_key(KeyId=name, ReplicaRegion=US), "UnsupportedOperationException"),
        (lambda: us.replicate_key(KeyId=key["KeyId"], ReplicaRegion=EU), "UnsupportedOperationException"),
        (lambda: us.replicate_key(KeyId="alias/x", ReplicaRegion=EU), "NotFoundException"),
        (lambda: eu.update_primary_region(KeyId=name, PrimaryRegion=EU), "UnsupportedOperationException"),
        (
            lambda: us.update_primary_region(KeyId=key["KeyId"], PrimaryRegion=EU),
            "UnsupportedOperationException",
        ),
        (lambda: us.update_primary_region(KeyId=name, PrimaryRegion="us-west-2"), "ValidationException"),
        (lambda: us.create_key(MultiRegion=True, Origin="EXTERNAL"), "UnsupportedOperationException"),
    ):
        assert refused(call)[0] == expected
    us.disable_key(KeyId=name)
    assert refused(lambda: us.update_primary_region(KeyId=name, PrimaryRegion=EU))[0] == "DisabledException"


def test_a_replica_has_its_own_policy(us: Any, eu: Any, served: Serving, primary: Any) -> None:
    policy = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
                    "NotAction": "kms:Decrypt",
                    "Resource": "*",
                }
            ],
        }
    )
    answer = us.replicate_key(KeyId=primary["KeyId"], ReplicaRegion=EU, Policy=policy)
    assert json.loads(answer["ReplicaPolicy"]) == json.loads(policy)
    blob = eu.encrypt(KeyId=primary["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert refused(lambda: eu.decrypt(CiphertextBlob=blob))[0] == "AccessDeniedException"
    assert us.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    locked = policy.replace("kms:Decrypt", "kms:PutKeyPolicy")
    other = us.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    code, _ = refused(lambda: us.replicate_key(KeyId=other, ReplicaRegion=EU, Policy=locked))
    assert code == "MalformedPolicyDocumentException"


def test_policies_see_the_regions_and_the_role_of_a_key(us: Any, eu: Any, primary: Any) -> None:
    def deny(client: Any, action: str, condition: dict[str, Any]) -> None:
        root = {"AWS": "arn:aws:iam::000000000000:root"}
        allow = {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"}
        statements = [allow, {**allow, "Effect": "Deny", "Action": action, "Condition": condition}]
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        client.put_key_policy(KeyId=primary["KeyId"], Policy=document)

    name = primary["KeyId"]
    deny(us, "kms:ReplicateKey", {"StringEquals": {"kms:ReplicaRegion": EU}})
    assert refused(lambda: replicated(us, primary))[0] == "AccessDeniedException"
    deny(us, "kms:UpdatePrimaryRegion", {"StringEquals": {"kms:MultiRegionKeyType": "REPLICA"}})
    replicated(us, primary)
    us.update_primary_region(KeyId=name, PrimaryRegion=EU)
    eu.update_primary_region(KeyId=name, PrimaryRegion=EU)
    # back is refused by the policy of the one that is a replica now, in its own region
    assert (
        refused(lambda: eu.update_primary_region(KeyId=name, PrimaryRegion=US))[0] == "AccessDeniedException"
    )


def test_the_primary_moves_and_a_primary_waits_for_its_replicas(us: Any, eu: Any, primary: Any) -> None:
    replicated(us, primary)
    name = primary["KeyId"]
    us.update_primary_region(KeyId=name, PrimaryRegion=EU)
    shown = us.describe_key(KeyId=name)["KeyMetadata"]["MultiRegionConfiguration"]
    assert (shown["MultiRegionKeyType"], shown["PrimaryKey"]["Region"]) == ("REPLICA", EU)
    said = eu.schedule_key_deletion(KeyId=name, PendingWindowInDays=7)
    assert (said["KeyState"], said["PendingWindowInDays"]) == ("PendingReplicaDeletion", 7)
    assert "DeletionDate" not in said
    waiting = eu.describe_key(KeyId=name)["KeyMetadata"]
    assert (waiting["KeyState"], waiting["PendingDeletionWindowInDays"]) == ("PendingReplicaDeletion", 7)
    code, _ = refused(lambda: eu.encrypt(KeyId=name, Plaintext=b"x"))
    assert code == "KMSInvalidStateException"
    assert us.encrypt(KeyId=name, Plaintext=b"x")["KeyId"] == primary["Arn"]
    eu.cancel_key_deletion(KeyId=name)
    assert eu.describe_key(KeyId=name)["KeyMetadata"]["KeyState"] == "Disabled"
    assert us.schedule_key_deletion(KeyId=name)["KeyState"] == "PendingDeletion"


def test_both_regions_record_it(us: Any, served: Serving, primary: Any) -> None:
    replica = replicated(us, primary)
    asked = [r for r in records(served.home.path, US) if r["action"] == "ReplicateKey"][-1]
    made = [r for r in records(served.home.path, EU) if r["action"] == "CreateKey"][-1]
    assert (asked["key"], made["key"]) == (primary["Arn"], replica["Arn"])
    assert asked["principal"] == made["principal"] == "arn:aws:iam::000000000000:root"

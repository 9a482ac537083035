"""Deletion over the wire: scheduled, cancelled, and refused while a tree would be lost; descriptions."""

from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from testkit.audits import records
from testkit.clock import late_by
from testkit.home import Home
from testkit.serving import refused
from testkit.waiting import await_true

from kmsfs.ids import TreeId
from kmsfs.keystore.known_trees import note_tree
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"


@pytest.mark.parametrize("window", [None, 7, 30])
def test_a_deletion_is_scheduled_and_cancelled(us: Any, key: Any, window: int | None) -> None:
    days = window or 30
    given = {} if window is None else {"PendingWindowInDays": window}
    before = datetime.now(UTC) - timedelta(seconds=1)
    answer = us.schedule_key_deletion(KeyId=key["KeyId"], **given)
    after = datetime.now(UTC) + timedelta(seconds=1)
    assert answer["KeyId"] == key["Arn"]
    assert (answer["KeyState"], answer["PendingWindowInDays"]) == ("PendingDeletion", days)
    assert before <= answer["DeletionDate"] - timedelta(days=days) <= after

    described = us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
    assert (described["KeyState"], described["Enabled"]) == ("PendingDeletion", False)
    assert described["DeletionDate"] == answer["DeletionDate"]

    assert us.cancel_key_deletion(KeyId=key["Arn"])["KeyId"] == key["Arn"]
    kept = us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
    assert kept["KeyState"] == "Disabled"
    assert "DeletionDate" not in kept


def test_a_key_that_is_pending_deletion_can_only_be_seen(us: Any, key: Any) -> None:
    name = key["KeyId"]
    blob = us.encrypt(KeyId=name, Plaintext=b"x")["CiphertextBlob"]
    us.schedule_key_deletion(KeyId=name)
    said = ("KMSInvalidStateException", f"{key['Arn']} is pending deletion.")
    for call in (
        lambda: us.encrypt(KeyId=name, Plaintext=b"x"),
        lambda: us.decrypt(CiphertextBlob=blob),
        lambda: us.generate_data_key(KeyId=name, KeySpec="AES_256"),
        lambda: us.re_encrypt(CiphertextBlob=blob, DestinationKeyId=name),
        lambda: us.enable_key(KeyId=name),
        lambda: us.disable_key(KeyId=name),
        lambda: us.schedule_key_deletion(KeyId=name),
        lambda: us.update_key_description(KeyId=name, Description="other"),
        lambda: us.tag_resource(KeyId=name, Tags=[{"TagKey": "a", "TagValue": "b"}]),
        lambda: us.untag_resource(KeyId=name, TagKeys=["a"]),
        lambda: us.enable_key_rotation(KeyId=name),
        lambda: us.disable_key_rotation(KeyId=name),
        lambda: us.rotate_key_on_demand(KeyId=name),
        lambda: us.create_alias(AliasName="alias/doomed", TargetKeyId=name),
    ):
        assert refused(call) == said
    assert us.list_resource_tags(KeyId=name)["Tags"] == []
    assert us.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"] is False
    assert us.list_key_rotations(KeyId=name)["Rotations"] == []


def test_what_is_not_pending_cannot_be_cancelled(us: Any, key: Any) -> None:
    refusal = refused(lambda: us.cancel_key_deletion(KeyId=key["KeyId"]))
    assert refusal == ("KMSInvalidStateException", f"{key['Arn']} is not pending deletion.")


def test_a_key_of_a_known_tree_needs_a_tag(us: Any, key: Any, server_home: Home) -> None:
    note_tree(server_home.path, TreeId(b"w" * 16), Path("/srv/a tree"), [key["Arn"]])
    code, message = refused(lambda: us.schedule_key_deletion(KeyId=key["KeyId"]))
    assert code == "KMSInvalidStateException"
    assert message.startswith(f"{key['Arn']} is in use by file system trees")
    assert "kmsfs:allow-deletion = yes" in message
    assert "/srv" not in message
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "Enabled"
    us.tag_resource(KeyId=key["KeyId"], Tags=[{"TagKey": "kmsfs:allow-deletion", "TagValue": "yes"}])
    assert us.schedule_key_deletion(KeyId=key["KeyId"])["KeyState"] == "PendingDeletion"


def test_a_description_is_changed(us: Any, key: Any) -> None:
    us.update_key_description(KeyId=key["Arn"], Description="another")
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["Description"] == "another"
    us.update_key_description(KeyId=key["Arn"], Description="")
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["Description"] == ""


ON_ONE_KEY = {
    "update_key_description": {"Description": "d"},
    "enable_key": {},
    "disable_key": {},
    "schedule_key_deletion": {},
    "cancel_key_deletion": {},
    "tag_resource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
    "untag_resource": {"TagKeys": ["a"]},
    "list_resource_tags": {},
    "enable_key_rotation": {},
    "disable_key_rotation": {},
    "get_key_rotation_status": {},
    "rotate_key_on_demand": {},
    "list_key_rotations": {},
}


@pytest.mark.parametrize("action", ON_ONE_KEY)
def test_the_key_must_be_named_and_of_this_region(us: Any, key: Any, action: str) -> None:
    def said(ref: str) -> tuple[str, str]:
        return refused(lambda: getattr(us, action)(KeyId=ref, **ON_ONE_KEY[action]))

    absent = "01234567-89ab-cdef-0123-456789abcdef"
    missing = ("NotFoundException", f"Key '{key['Arn'].replace(key['KeyId'], absent)}' does not exist")
    assert said(absent) == missing
    assert said(key["Arn"].replace(US, EU)) == ("NotFoundException", f"Invalid arn {EU}")
    assert said("alias/any") == ("NotFoundException", "Invalid keyId 'alias/any'")


def test_an_idle_server_deletes_what_is_due(us: Any, key: Any, server_home: Home) -> None:
    with Keystore.open(server_home.path, now=late_by(8)) as late:
        late.schedule_key_deletion(key["Arn"], days=7)
    done = ("DeleteKey", key["Arn"], "server")
    await_true(lambda: done in map(itemgetter("action", "key", "via"), records(server_home.path, US)))
    assert refused(lambda: us.describe_key(KeyId=key["KeyId"]))[0] == "NotFoundException"

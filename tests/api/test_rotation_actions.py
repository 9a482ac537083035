"""Rotation over the wire: on, off, its period, on demand, and listed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from testkit.serving import refused


def test_rotation_is_turned_on_and_off(us: Any, key: Any) -> None:
    name = key["KeyId"]
    assert us.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"] is False
    us.enable_key_rotation(KeyId=name)
    status = us.get_key_rotation_status(KeyId=key["Arn"])
    assert (status["KeyId"], status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (
        name,
        True,
        365,
    )
    until = status["NextRotationDate"] - datetime.now(UTC)
    assert timedelta(days=364) < until < timedelta(days=366)
    us.enable_key_rotation(KeyId=name, RotationPeriodInDays=90)
    assert us.get_key_rotation_status(KeyId=name)["RotationPeriodInDays"] == 90
    us.disable_key_rotation(KeyId=name)
    off = us.get_key_rotation_status(KeyId=name)
    assert off["KeyRotationEnabled"] is False
    assert not {"RotationPeriodInDays", "NextRotationDate"} & set(off)


def test_new_material_and_the_old_ciphertext(us: Any, key: Any) -> None:
    name = key["KeyId"]
    old = us.encrypt(KeyId=name, Plaintext=b"old")["CiphertextBlob"]
    assert us.rotate_key_on_demand(KeyId=name)["KeyId"] == key["Arn"]
    new = us.encrypt(KeyId=name, Plaintext=b"new")["CiphertextBlob"]
    found = [us.decrypt(CiphertextBlob=blob) for blob in (old, new)]
    assert [answer["Plaintext"] for answer in found] == [b"old", b"new"]
    assert {answer["KeyId"] for answer in found} == {key["Arn"]}
    first, second = [answer["KeyMaterialId"] for answer in found]
    assert first == key["CurrentKeyMaterialId"] != second

    (rotation,) = us.list_key_rotations(KeyId=name)["Rotations"]
    assert rotation.pop("RotationDate") > key["CreationDate"]
    assert rotation == {
        "KeyId": name,
        "KeyMaterialId": second,
        "KeyMaterialState": "CURRENT",
        "RotationType": "ON_DEMAND",
    }
    whole = us.list_key_rotations(KeyId=name, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert whole[0] == {"KeyId": name, "KeyMaterialId": first, "KeyMaterialState": "NON_CURRENT"}
    assert [entry["KeyMaterialId"] for entry in whole] == [first, second]


def test_twenty_five_rotations_on_demand_and_no_more(us: Any, key: Any) -> None:
    name = key["KeyId"]
    for _ in range(25):
        us.rotate_key_on_demand(KeyId=name)
    code, _ = refused(lambda: us.rotate_key_on_demand(KeyId=name))
    assert code == "LimitExceededException"
    whole = us.list_key_rotations(KeyId=name, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert len({entry["KeyMaterialId"] for entry in whole}) == 26
    paginator = us.get_paginator("list_key_rotations")
    sized = {"PaginationConfig": {"PageSize": 10}}
    pages = list(paginator.paginate(KeyId=name, IncludeKeyMaterial="ALL_KEY_MATERIAL", **sized))
    assert [len(page["Rotations"]) for page in pages] == [10, 10, 6]
    assert [entry for page in pages for entry in page["Rotations"]] == whole
    marker = us.list_key_rotations(KeyId=name, Limit=1)["NextMarker"]
    other = us.create_key()["KeyMetadata"]["KeyId"]
    for call in (
        lambda: us.list_key_rotations(KeyId=other, Marker=marker),
        lambda: us.list_key_rotations(KeyId=name, IncludeKeyMaterial="ALL_KEY_MATERIAL", Marker=marker),
    ):
        assert refused(call)[0] == "InvalidMarkerException"


def test_a_disabled_key_is_not_rotated(us: Any, key: Any) -> None:
    name = key["KeyId"]
    us.enable_key_rotation(KeyId=name)
    us.disable_key(KeyId=name)
    said = ("DisabledException", f"{key['Arn']} is disabled.")
    for call in (us.enable_key_rotation, us.disable_key_rotation, us.rotate_key_on_demand):
        assert refused(lambda call=call: call(KeyId=name)) == said
    assert us.get_key_rotation_status(KeyId=name)["KeyRotationEnabled"] is True

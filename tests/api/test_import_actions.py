"""Importing key material over the wire, as a client does it that has never heard of kmsfs."""

import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from testkit.serving import refused
from testkit.wrapping import wrap

MATERIAL, OTHER = bytes(range(32)), bytes(range(1, 33))
FOREVER = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}


def make(client: Any, **more: Any) -> Any:
    return client.create_key(Origin="EXTERNAL", **more)["KeyMetadata"]


def bring(
    client: Any, key: Any, material: bytes = MATERIAL, algorithm: str = "RSAES_OAEP_SHA_256", **more: Any
) -> Any:
    made = client.get_parameters_for_import(
        KeyId=key["KeyId"], WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048"
    )
    assert made["KeyId"] == key["Arn"]
    assert timedelta(hours=23) < made["ParametersValidTo"] - datetime.now(UTC) <= timedelta(hours=24)
    return client.import_key_material(
        KeyId=key["Arn"],
        ImportToken=made["ImportToken"],
        EncryptedKeyMaterial=wrap(made["PublicKey"], algorithm, material),
        **(more or FOREVER),
    )


@pytest.mark.parametrize(
    "algorithm",
    ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"],
)
def test_the_whole_way(us: Any, algorithm: str) -> None:
    key = make(us)
    assert (key["KeyState"], key["Origin"], key["Enabled"]) == ("PendingImport", "EXTERNAL", False)
    assert "CurrentKeyMaterialId" not in key
    pending = ("KMSInvalidStateException", f"{key['Arn']} is pending import.")
    assert refused(lambda: us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")) == pending
    made = bring(us, key, algorithm=algorithm)
    shown = us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
    assert (shown["KeyState"], shown["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert shown["CurrentKeyMaterialId"] == made["KeyMaterialId"]
    blob = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]

    gone = us.delete_imported_key_material(KeyId=key["KeyId"])
    assert (gone["KeyId"], gone["KeyMaterialId"]) == (key["Arn"], made["KeyMaterialId"])
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "PendingImport"
    assert refused(lambda: us.decrypt(CiphertextBlob=blob)) == pending
    assert refused(lambda: bring(us, key, OTHER))[0] == "IncorrectKeyMaterialException"
    assert bring(us, key)["KeyMaterialId"] == made["KeyMaterialId"]
    assert us.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_expiration(us: Any) -> None:
    key = make(us)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    bring(us, key, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=until)
    shown = us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
    assert (shown["ExpirationModel"], shown["ValidTo"]) == ("KEY_MATERIAL_EXPIRES", until)
    for wrong in (
        {"ExpirationModel": "KEY_MATERIAL_EXPIRES"},
        {"ImportType": "EXISTING_KEY_MATERIAL"},
        {**FOREVER, "ValidTo": until},
        {"ValidTo": datetime.now(UTC) - timedelta(seconds=1)},
        {"ValidTo": datetime.now(UTC) + timedelta(days=366)},
        {**FOREVER, "ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "0" * 64},
    ):
        code, _ = refused(lambda wrong=wrong: bring(us, key, **wrong))  # type: ignore[misc]
        assert code == "ValidationException"


def test_tokens_and_ciphertexts(us: Any) -> None:
    key, other = make(us), make(us)
    made = us.get_parameters_for_import(
        KeyId=key["KeyId"], WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_4096"
    )
    wrapped = wrap(made["PublicKey"], "RSAES_OAEP_SHA_256", MATERIAL)
    short = wrap(made["PublicKey"], "RSAES_OAEP_SHA_256", b"short")
    for name, token, material, code in (
        (other, made["ImportToken"], wrapped, "InvalidImportTokenException"),
        (key, b"no token", wrapped, "InvalidImportTokenException"),
        (key, made["ImportToken"], wrapped[:-1] + bytes([wrapped[-1] ^ 1]), "InvalidCiphertextException"),
        (key, made["ImportToken"], short, "IncorrectKeyMaterialException"),
    ):
        told = refused(
            lambda name=name, token=token, material=material: us.import_key_material(  # type: ignore[misc]
                KeyId=name["KeyId"], ImportToken=token, EncryptedKeyMaterial=material, **FOREVER
            )
        )
        assert told[0] == code
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] == "PendingImport"


def test_what_cannot_take_material(us: Any, key: Any) -> None:
    ours = make(us)
    ask = us.get_parameters_for_import
    for call in (
        lambda: ask(KeyId=key["KeyId"], WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"),
        lambda: ask(KeyId=ours["KeyId"], WrappingAlgorithm="RSAES_PKCS1_V1_5", WrappingKeySpec="RSA_2048"),
        lambda: ask(KeyId=ours["KeyId"], WrappingAlgorithm="SM2PKE", WrappingKeySpec="SM2"),
        lambda: us.delete_imported_key_material(KeyId=key["KeyId"]),
        lambda: us.enable_key_rotation(KeyId=(bring(us, ours), ours["KeyId"])[1]),
    ):
        assert refused(call)[0] == "UnsupportedOperationException"


def test_rotation_with_new_material(us: Any) -> None:
    key = make(us)
    name = key["KeyId"]
    first = bring(us, key, **FOREVER, KeyMaterialDescription="the first")["KeyMaterialId"]
    old = us.encrypt(KeyId=name, Plaintext=b"old")["CiphertextBlob"]
    second = bring(us, key, OTHER, ImportType="NEW_KEY_MATERIAL", **FOREVER)["KeyMaterialId"]
    asked = {"KeyId": name, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
    entries = us.list_key_rotations(**asked)["Rotations"]
    assert [entry["KeyMaterialId"] for entry in entries] == [first, second]
    assert [entry["KeyMaterialState"] for entry in entries] == ["CURRENT", "PENDING_ROTATION"]
    assert [entry["ImportState"] for entry in entries] == ["IMPORTED", "IMPORTED"]
    assert entries[0]["KeyMaterialDescription"] == "the first"
    us.rotate_key_on_demand(KeyId=name)
    assert us.describe_key(KeyId=name)["KeyMetadata"]["CurrentKeyMaterialId"] == second
    assert us.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"
    us.delete_imported_key_material(KeyId=name, KeyMaterialId=first)
    assert [entry["ImportState"] for entry in us.list_key_rotations(**asked)["Rotations"]] == [
        "PENDING_IMPORT",
        "IMPORTED",
    ]
    assert refused(lambda: us.rotate_key_on_demand(KeyId=name))[0] == "KMSInvalidStateException"
    bring(us, key, **FOREVER, KeyMaterialId=first)
    assert us.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"


def test_material_that_a_key_never_had_is_not_deleted(us: Any) -> None:
    key = make(us)
    bring(us, key, **FOREVER)
    name, unknown = key["KeyId"], "0" * 64
    told = refused(lambda: us.delete_imported_key_material(KeyId=name, KeyMaterialId=unknown))
    assert told == ("NotFoundException", f"key {key['Arn']} has no material {unknown}")
    assert us.describe_key(KeyId=name)["KeyMetadata"]["KeyState"] == "Enabled"


def test_a_mac_key_of_ours(us: Any) -> None:
    key = make(us, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    bring(us, key, bytes(range(32)))
    mac = us.generate_mac(KeyId=key["KeyId"], Message=b"m", MacAlgorithm="HMAC_SHA_256")["Mac"]
    assert mac == hmac.digest(bytes(range(32)), b"m", "sha256")


def test_the_command_line(served: Any, us: Any, tmp_path: Any) -> None:
    home = served.home
    made = home.json("key", "create", "--region", "us-east-1", "--origin", "EXTERNAL")
    assert made["KeyState"] == "PendingImport"
    file = tmp_path / "material.bin"
    file.write_bytes(MATERIAL)
    shown = home.json("key", "import", made["Arn"], file, "--days", "30")
    assert (shown["KeyState"], shown["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_EXPIRES")
    assert "material expires" in home.ok("key", "describe", made["Arn"])
    file.write_bytes(OTHER)
    done = home.run("key", "import", made["Arn"], file)
    assert done.returncode == 19
    home.ok("key", "import", made["Arn"], file, "--new")
    assert home.json("key", "delete-material", made["Arn"])["KeyState"] == "PendingImport"
    mac = home.json("key", "create", "--region", "us-east-1", "--spec", "HMAC_384")
    assert (mac["KeyUsage"], mac["MacAlgorithms"]) == ("GENERATE_VERIFY_MAC", ["HMAC_SHA_384"])
    doctor = json.loads(home.run("doctor", "--json").stdout)
    (keys,) = [found for found in doctor["findings"] if found["name"] == "us-east-1: keys"]
    assert keys["ok"]
    assert "imported" in keys["detail"]

"""Keys, aliases and their use, through the whole keystore on SoftHSM."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsfs.errors import (
    AliasNotFoundError,
    AlreadyExistsError,
    IncorrectKeyError,
    InvalidAliasError,
    InvalidCiphertextError,
    InvalidRequestError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsfsError,
    LimitExceededError,
    RegionNotFoundError,
)
from kmsfs.format.blob import Suite, parse_blob
from kmsfs.keystore import lifecycle
from kmsfs.keystore.aliases import MAX_ALIASES
from kmsfs.keystore.model import KeyManager, KeyState
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"kmsfs:tree-id": "00" * 16, "purpose": "test"}


@pytest.fixture(params=list(Suite), ids=["suite1", "suite2"])
def suited(request: pytest.FixtureRequest, ks_home: Path) -> Iterator[Keystore]:
    """A keystore whose new keys are of either suite."""
    for path in (ks_home / "regions").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "suite": int(request.param)}))
    with Keystore.open(ks_home) as opened:
        for region in (US, EU):
            opened.create_key(region, alias="alias/suited")
        yield opened


# --- wrapping -----------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 4095, 4096])
def test_encrypt_round_trip(suited: Keystore, size: int) -> None:
    plaintext = bytes(range(256)) * 16
    sealed = suited.encrypt("alias/suited", plaintext[:size], CONTEXT, region=US)
    opened = suited.decrypt(sealed.blob, CONTEXT)
    assert opened.plaintext == plaintext[:size]
    assert (opened.key_arn, opened.material_id) == (sealed.key_arn, sealed.material_id)
    assert opened.key_arn == suited.resolve("alias/suited", region=US).arn


@pytest.mark.parametrize("size", [0, 4097])
def test_sizes_past_the_edge(keystore: Keystore, size: int) -> None:
    with pytest.raises(InvalidRequestError):
        keystore.encrypt("alias/main", bytes(size), {}, region=US)


@pytest.mark.parametrize("length", [1, 32, 1024])
def test_a_generated_data_key_is_the_one_in_its_blob(suited: Keystore, length: int) -> None:
    made = suited.generate_data_key("alias/suited", CONTEXT, region=EU, length=length)
    assert len(made.plaintext) == length
    assert suited.decrypt(made.blob, CONTEXT).plaintext == made.plaintext
    assert suited.decrypt(made.blob, CONTEXT, region=EU, ref="alias/suited").plaintext == made.plaintext


@pytest.mark.parametrize("length", [0, 1025, -1])
def test_data_key_lengths_past_the_edge(keystore: Keystore, length: int) -> None:
    with pytest.raises(InvalidRequestError):
        keystore.generate_data_key("alias/main", {}, region=US, length=length)


def test_the_blob_of_a_data_key_fits_a_slot(suited: Keystore) -> None:
    assert len(suited.generate_data_key("alias/suited", CONTEXT, region=US).blob) <= 256


def test_two_blobs_of_one_plaintext_differ(suited: Keystore) -> None:
    blobs = {suited.encrypt("alias/suited", b"same", CONTEXT, region=US).blob for _ in range(20)}
    assert len(blobs) == 20


def test_plaintext_is_in_no_repr(keystore: Keystore) -> None:
    made = keystore.generate_data_key("alias/main", {}, region=US)
    assert repr(made.plaintext) not in repr(made)
    assert "plaintext" not in repr(keystore.decrypt(made.blob, {}))


@pytest.mark.parametrize(
    "other", [{}, {"kmsfs:tree-id": "00" * 16}, {**CONTEXT, "x": ""}, {**CONTEXT, "purpose": "Test"}]
)
def test_another_context_does_not_decrypt(suited: Keystore, other: dict[str, str]) -> None:
    blob = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US).blob
    with pytest.raises(InvalidCiphertextError):
        suited.decrypt(blob, other)


def test_a_context_cannot_be_regrouped(suited: Keystore) -> None:
    blob = suited.encrypt("alias/suited", b"secret", {"a": "bc"}, region=US).blob
    with pytest.raises(InvalidCiphertextError):
        suited.decrypt(blob, {"ab": "c"})


def test_a_context_that_is_none_is_a_bad_request(keystore: Keystore) -> None:
    blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    for bad in ({"a": 1}, None, {"a": "x" * 9000}):
        with pytest.raises(InvalidRequestError):
            keystore.encrypt("alias/main", b"x", bad, region=US)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            keystore.decrypt(blob, bad)  # type: ignore[arg-type]


def test_every_flipped_bit_is_an_error(suited: Keystore) -> None:
    blob = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US).blob
    arn = slice(8, 8 + len(parse_blob(blob).head.key_arn))
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1 << position % 8
        # an ARN of another region or a material id that is not here is "not found", all else is invalid
        with pytest.raises((InvalidCiphertextError, KeyNotFoundError)):
            suited.decrypt(bytes(changed), CONTEXT)
        if position < arn.start or position >= arn.stop + 32:
            with pytest.raises(InvalidCiphertextError):
                suited.decrypt(bytes(changed), CONTEXT)
    assert suited.decrypt(blob, CONTEXT).plaintext == b"secret"


def test_every_truncation_is_an_error(suited: Keystore) -> None:
    blob = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US).blob
    for size in range(len(blob)):
        with pytest.raises(InvalidCiphertextError):
            suited.decrypt(blob[:size], CONTEXT)
    with pytest.raises(InvalidCiphertextError):
        suited.decrypt(blob + b"\0", CONTEXT)


@pytest.mark.parametrize(
    "edit",
    [
        lambda arn: arn[:-1] + bytes([arn[-1] ^ 1]),  # another key id
        lambda arn: arn.replace(b"000000000000", b"000000000001"),  # another account
        lambda arn: arn.replace(b":key/", b":kex/"),
        lambda arn: arn.replace(b":key/", b":alias/")[: len(arn)],
    ],
    ids=["key", "account", "kind", "alias"],
)
def test_the_arn_in_the_blob_is_authenticated(suited: Keystore, edit: object) -> None:
    blob = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US).blob
    arn = parse_blob(blob).head.key_arn.encode()
    with pytest.raises(InvalidCiphertextError):
        suited.decrypt(blob.replace(arn, edit(arn)), CONTEXT, region=US)  # type: ignore[operator]


def test_another_regions_arn_in_the_blob_does_not_lead_anywhere(suited: Keystore) -> None:
    blob = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US).blob
    with pytest.raises(KeyNotFoundError):
        suited.decrypt(blob, CONTEXT, region=EU)
    moved = blob.replace(b":us-east-1:", b":eu-west-1:")
    with pytest.raises(KeyNotFoundError):
        suited.decrypt(moved, CONTEXT)
    with pytest.raises(InvalidCiphertextError):
        suited.decrypt(moved, CONTEXT, region=US)


def test_a_blob_of_a_region_that_is_not_configured(keystore: Keystore) -> None:
    blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    with pytest.raises(KeyNotFoundError):
        keystore.decrypt(blob.replace(b":us-east-1:", b":us-east-9:"), {})


def test_a_blob_that_changes_its_suite(keystore: Keystore) -> None:
    blob = bytearray(keystore.encrypt("alias/main", bytes(40), {}, region=US).blob)
    blob[5] = Suite.HSM_KDF
    with pytest.raises(InvalidCiphertextError):
        keystore.decrypt(bytes(blob), {})


def test_decrypt_insists_on_the_key_that_is_named(keystore: Keystore) -> None:
    other = keystore.create_key(US)
    blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    assert keystore.decrypt(blob, {}, ref="alias/main", region=US).plaintext == b"x"
    with pytest.raises(IncorrectKeyError):
        keystore.decrypt(blob, {}, ref=other.arn)


def test_re_encrypt_moves_a_blob_to_another_region(suited: Keystore) -> None:
    source = suited.encrypt("alias/suited", b"secret", CONTEXT, region=US)
    moved = suited.re_encrypt(source.blob, CONTEXT, "alias/suited", {"new": "context"}, region=EU)
    assert (moved.source_key_arn, moved.source_material_id) == (source.key_arn, source.material_id)
    assert f":{EU}:" in moved.key_arn
    opened = suited.decrypt(moved.blob, {"new": "context"})
    assert (opened.plaintext, opened.key_arn, opened.material_id) == (
        b"secret",
        moved.key_arn,
        moved.material_id,
    )
    with pytest.raises(InvalidCiphertextError):
        suited.re_encrypt(source.blob, {}, "alias/suited", {}, region=EU)


# --- keys ---------------------------------------------------------------------------------------
def test_a_key_as_aws_describes_it(keystore: Keystore) -> None:
    key = keystore.create_key(US, description="for files")
    described = keystore.describe_key(key.key_id, region=US).to_aws()
    assert described == {
        "AWSAccountId": "000000000000",
        "KeyId": key.key_id,
        "Arn": f"arn:aws:kms:us-east-1:000000000000:key/{key.key_id}",
        "CreationDate": key.created_at,
        "Enabled": True,
        "Description": "for files",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
        "CurrentKeyMaterialId": key.materials[0].material_id.hex(),
    }
    assert json.dumps(described)


def test_keys_are_listed_by_region_in_order_of_creation(keystore: Keystore) -> None:
    made = [keystore.create_key(EU) for _ in range(3)]
    main = keystore.resolve("alias/main", region=EU)
    assert keystore.list_keys(EU) == [main, *made]
    assert [key.region for key in keystore.list_keys()] == [EU] * 4 + [US]


def test_every_way_to_name_a_key(keystore: Keystore) -> None:
    key = keystore.resolve("alias/main", region=US)
    for name in (key.arn, "arn:aws:kms:us-east-1:000000000000:alias/main"):
        assert keystore.resolve(name) == keystore.resolve(name, region=US) == key
    assert keystore.resolve(key.key_id, region=US) == key


@pytest.mark.parametrize(
    ("ref", "region", "error"),
    [
        ("alias/nothing", US, AliasNotFoundError),
        ("00000000-0000-0000-0000-000000000000", US, KeyNotFoundError),
        ("alias/main", None, InvalidRequestError),
        ("alias/main", "us-east-9", RegionNotFoundError),
        ("alias/main", "../etc", InvalidRequestError),
        ("main", US, InvalidRequestError),
        ("", US, InvalidRequestError),
        ("arn:aws:kms:us-east-9:000000000000:alias/main", None, RegionNotFoundError),
        ("arn:aws:kms:us-east-1:111111111111:alias/main", None, AliasNotFoundError),
        ("arn:aws:kms:us-east-1:000000000000:alias/main", EU, KeyNotFoundError),
        ("arn:aws:s3:us-east-1:000000000000:alias/main", None, InvalidRequestError),
    ],
)
def test_names_that_lead_nowhere(
    keystore: Keystore, ref: str, region: str | None, error: type[KmsfsError]
) -> None:
    with pytest.raises(error):
        keystore.resolve(ref, region=region)


def test_the_only_region_need_not_be_named(tmp_path: Path) -> None:
    with Keystore.open(tmp_path / "home") as keystore:
        with pytest.raises(RegionNotFoundError):
            keystore.resolve("alias/main")
        assert keystore.regions() == keystore.list_keys() == keystore.list_aliases() == []
        keystore.add_region(US)
        key = keystore.create_key(US, alias="alias/main")
        assert keystore.resolve("alias/main") == key
        keystore.delete_alias("alias/main")
        assert keystore.list_aliases() == []


def test_a_description_past_the_edge(keystore: Keystore) -> None:
    assert len(keystore.create_key(US, description="x" * 8192).description) == 8192
    with pytest.raises(InvalidRequestError):
        keystore.create_key(US, description="x" * 8193)


@pytest.mark.parametrize("character", ["\0", "\ud800"])
def test_a_description_that_no_store_can_keep(keystore: Keystore, character: str) -> None:
    for use in (
        lambda: keystore.create_key(US, description=f"a{character}"),
        lambda: keystore.update_key_description("alias/main", f"a{character}", region=US),
    ):
        with pytest.raises(InvalidRequestError):
            use()


def test_a_key_has_so_many_aliases_and_no_more(keystore: Keystore) -> None:
    key, other = keystore.resolve("alias/main", region=US), keystore.create_key(US, alias="alias/other")
    for number in range(MAX_ALIASES - 1):
        keystore.create_alias(f"alias/{number}", key.arn)
    with pytest.raises(LimitExceededError):
        keystore.create_alias("alias/more", key.arn)
    with pytest.raises(LimitExceededError):
        keystore.update_alias("alias/other", key.arn)
    keystore.update_alias("alias/0", key.arn)  # where it is already
    keystore.delete_alias("alias/0", region=US)
    keystore.update_alias("alias/other", key.arn)
    assert keystore.create_alias("alias/more", other.arn).target_key_id == other.key_id


def test_a_region_has_so_many_keys_and_no_more(keystore: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    keystore.managed_key(US)
    shared = keystore.create_key(EU, multi_region=True)
    made = len([key for key in keystore.list_keys(US) if key.manager is KeyManager.CUSTOMER])
    monkeypatch.setattr(lifecycle, "MAX_KEYS", made + 1)
    keystore.create_key(US)
    with pytest.raises(LimitExceededError, match="keys already"):
        keystore.create_key(US)
    with pytest.raises(LimitExceededError, match="keys already"):
        keystore.replicate_key(shared.arn, US)
    assert len(keystore.list_keys(US)) == made + 2


def test_a_disabled_key_does_nothing_until_it_is_enabled(suited: Keystore) -> None:
    made = suited.generate_data_key("alias/suited", {}, region=US)
    disabled = suited.disable_key(made.key_arn)
    assert disabled.state is KeyState.DISABLED
    assert suited.disable_key(made.key_arn) == disabled
    assert disabled.to_aws()["Enabled"] is False
    for use in (
        lambda: suited.encrypt(made.key_arn, b"x", {}),
        lambda: suited.decrypt(made.blob, {}),
        lambda: suited.generate_data_key(made.key_arn, {}),
        lambda: suited.re_encrypt(made.blob, {}, "alias/suited", {}, region=EU),
        lambda: suited.check_usable(made.key_arn),
    ):
        with pytest.raises(KeyDisabledError):
            use()
    assert suited.enable_key(made.key_arn).state is KeyState.ENABLED
    suited.check_usable(made.key_arn)
    assert suited.decrypt(made.blob, {}).plaintext == made.plaintext


def test_what_was_done_is_there_after_reopening(ks_home: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt("alias/main", b"secret", CONTEXT, region=US).blob
        disabled = keystore.disable_key("alias/main", region=EU)
        keys, aliases = keystore.list_keys(), keystore.list_aliases()
    with Keystore.open(ks_home) as again:
        assert (again.list_keys(), again.list_aliases()) == (keys, aliases)
        assert again.describe_key(disabled.arn).state is KeyState.DISABLED
        assert again.decrypt(blob, CONTEXT).plaintext == b"secret"


# --- aliases ------------------------------------------------------------------------------------
def test_an_alias_is_made_moved_and_removed(keystore: Keystore) -> None:
    first, second = keystore.create_key(US), keystore.create_key(US)
    made = keystore.create_alias("alias/a/b_c-1", first.arn)
    assert made.to_aws() == {
        "AliasName": "alias/a/b_c-1",
        "AliasArn": "arn:aws:kms:us-east-1:000000000000:alias/a/b_c-1",
        "TargetKeyId": first.key_id,
        "CreationDate": made.created_at,
        "LastUpdatedDate": made.created_at,
    }
    moved = keystore.update_alias("alias/a/b_c-1", second.key_id, region=US)
    assert (moved.target_key_id, moved.created_at) == (second.key_id, made.created_at)
    assert moved.updated_at >= made.updated_at
    assert keystore.resolve(moved.arn) == second
    assert [alias.name for alias in keystore.list_aliases(US)] == ["alias/a/b_c-1", "alias/main"]
    keystore.delete_alias("alias/a/b_c-1", region=US)
    with pytest.raises(AliasNotFoundError):
        keystore.resolve("alias/a/b_c-1", region=US)


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "alias/",
        "alias/a b",
        "alias/a:b",
        "alias/aws/x",
        "alias/" + "x" * 251,
        "Alias/a",
        "alias/ä",
        "alias/a\n",
    ],
)
def test_alias_names_that_are_refused(keystore: Keystore, name: str) -> None:
    key = keystore.resolve("alias/main", region=US)
    count = len(keystore.list_keys(US))
    for use in (
        lambda: keystore.create_alias(name, key.arn),
        lambda: keystore.update_alias(name, key.arn),
        lambda: keystore.delete_alias(name, region=US),
        lambda: keystore.create_key(US, alias=name),
    ):
        with pytest.raises(InvalidAliasError):
            use()
    assert len(keystore.list_keys(US)) == count


def test_the_longest_alias(keystore: Keystore) -> None:
    name = "alias/" + "x" * 250
    assert keystore.create_key(US, alias=name) == keystore.resolve(name, region=US)


def test_an_alias_that_exists_is_not_made_again_and_leaves_no_key(keystore: Keystore) -> None:
    key = keystore.resolve("alias/main", region=US)
    before = keystore.list_keys(US)
    with pytest.raises(AlreadyExistsError):
        keystore.create_alias("alias/main", key.arn)
    with pytest.raises(AlreadyExistsError):
        keystore.create_key(US, alias="alias/main")
    assert keystore.list_keys(US) == before
    assert all(finding.ok for finding in keystore.check())


def test_aliases_need_their_alias_and_their_target(keystore: Keystore) -> None:
    missing = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(AliasNotFoundError):
        keystore.update_alias("alias/none", "alias/main", region=US)
    with pytest.raises(AliasNotFoundError):
        keystore.delete_alias("alias/none", region=US)
    with pytest.raises(KeyNotFoundError):
        keystore.create_alias("alias/new", missing, region=US)
    with pytest.raises(KeyNotFoundError):
        keystore.update_alias("alias/main", missing, region=US)


def test_an_alias_can_point_at_a_disabled_key(keystore: Keystore) -> None:
    key = keystore.disable_key(keystore.create_key(US).arn)
    assert keystore.create_alias("alias/off", key.arn).target_key_id == key.key_id


# --- cost ---------------------------------------------------------------------------------------
def test_a_use_costs_one_operation_and_a_check_none(suited: Keystore) -> None:
    made = suited.generate_data_key("alias/suited", {}, region=US)
    suited.decrypt(made.blob, {})
    before = suited.hsm_calls
    suited.check_usable(made.key_arn)
    suited.resolve("alias/suited", region=US)
    suited.list_keys()
    assert not suited.refresh()
    assert suited.hsm_calls == before
    suited.decrypt(made.blob, {})
    assert suited.hsm_calls == before + 1
    suited.generate_data_key(made.key_arn, {})
    assert suited.hsm_calls == before + 2


def test_softhsm_is_fast(keystore: Keystore) -> None:
    key = keystore.resolve("alias/main", region=US)
    assert not keystore.is_fast(key.arn), "nobody has asked it yet"
    keystore.measure([key.arn])
    before = keystore.hsm_calls
    assert keystore.is_fast(key.arn)
    keystore.measure([key.arn])
    assert keystore.hsm_calls == before

"""What policies can look at when a process, and no request to the server, asks: what is asked for, all of it."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from testkit.audits import records, results
from testkit.policy_cases import allow, deny, policy

from kmsfs.errors import (
    AccessDeniedError,
    AliasNotFoundError,
    InvalidRequestError,
    MalformedPolicyError,
)
from kmsfs.keystore.access import NewGrant
from kmsfs.keystore.authorize import Caller
from kmsfs.keystore.imported import Arrival
from kmsfs.keystore.model import KeySpec, Origin
from kmsfs.keystore.policy.grants import Constraints
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
MAIN = "alias/main"
ACCOUNT = "000000000000"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
NO_ONE = json.dumps(policy(allow("kms:DescribeKey", ALICE)))

Call = Callable[[Keystore], object]


def scheduled(days: int) -> Call:
    def call(keystore: Keystore) -> None:
        keystore.schedule_key_deletion(MAIN, days=days, region=US)
        keystore.cancel_key_deletion(MAIN, region=US)
        keystore.enable_key(MAIN, region=US)

    return call


def rotated(days: int) -> Call:
    return lambda keystore: keystore.enable_key_rotation(MAIN, period_days=days, region=US)


def tagged(name: str, value: str) -> Call:
    return lambda keystore: keystore.tag_key(MAIN, [(name, value)], region=US)


def put(*, bypass: bool) -> Call:
    def call(keystore: Keystore) -> None:
        keystore.put_key_policy(
            MAIN, keystore.key_policy(MAIN, region=US), bypass_lockout_check=bypass, region=US
        )

    return call


def granted(grantee: str = ROOT, *more: str, **wanted: Any) -> Call:
    grant = NewGrant(grantee, frozenset({"Decrypt", *more}), **wanted)
    return lambda keystore: keystore.create_grant(MAIN, grant, region=US)


def encrypted(ref: str) -> Call:
    return lambda keystore: keystore.encrypt(_named(keystore, ref), b"x", {}, region=US)


def decrypted(ref: str) -> Call:
    def call(keystore: Keystore) -> None:
        blob = keystore.encrypt(keystore.resolve(MAIN, region=US).arn, b"x", {}).blob
        keystore.decrypt(blob, {}, ref=_named(keystore, ref), region=US)

    return call


def re_encrypted(*, same: bool) -> Call:
    def call(keystore: Keystore) -> None:
        arn = keystore.resolve(MAIN, region=US).arn
        target = arn if same else keystore.create_key(US).arn
        keystore.re_encrypt(keystore.encrypt(arn, b"x", {}).blob, {}, target, {})

    return call


def moved_to(ref: str) -> Call:
    def call(keystore: Keystore) -> None:
        blob = keystore.encrypt(keystore.resolve(MAIN, region=US).arn, b"x", {}).blob
        keystore.re_encrypt(blob, {}, _named(keystore, ref), {}, region=US)

    return call


def _named(keystore: Keystore, ref: str) -> str:
    return keystore.resolve(MAIN, region=US).arn if ref == "arn" else ref


@pytest.mark.parametrize(
    ("action", "key", "value", "allowed", "denied"),
    [
        (
            "ScheduleKeyDeletion",
            "kms:ScheduleKeyDeletionPendingWindowInDays",
            "7",
            scheduled(30),
            scheduled(7),
        ),
        ("EnableKeyRotation", "kms:RotationPeriodInDays", "90", rotated(365), rotated(90)),
        ("TagResource", "aws:RequestTag/team", "red", tagged("team", "blue"), tagged("team", "red")),
        ("TagResource", "aws:TagKeys", "team", tagged("owner", "me"), tagged("team", "me")),
        (
            "UntagResource",
            "aws:TagKeys",
            "team",
            lambda keystore: keystore.untag_key(MAIN, ["owner"], region=US),
            lambda keystore: keystore.untag_key(MAIN, ["team"], region=US),
        ),
        (
            "PutKeyPolicy",
            "kms:BypassPolicyLockoutSafetyCheck",
            "true",
            put(bypass=False),
            put(bypass=True),
        ),
        ("CreateGrant", "kms:GranteePrincipal", ALICE, granted(), granted(ALICE)),
        ("CreateGrant", "kms:GrantOperations", "Encrypt", granted(), granted(ROOT, "Encrypt")),
        (
            "CreateGrant",
            "kms:GrantConstraintType",
            "EncryptionContextEquals",
            granted(constraints=Constraints(subset={"a": "b"})),
            granted(constraints=Constraints(equals={"a": "b"})),
        ),
        (
            "CreateGrant",
            "kms:EncryptionContext:a",
            "b",
            granted(constraints=Constraints(subset={"a": "c"})),
            granted(constraints=Constraints(subset={"a": "b"})),
        ),
        ("CreateGrant", "kms:RetiringPrincipal", ALICE, granted(), granted(retiring_principal=ALICE)),
        (
            "ReEncryptFrom",
            "kms:ReEncryptOnSameKey",
            "false",
            re_encrypted(same=True),
            re_encrypted(same=False),
        ),
        ("ReEncryptTo", "kms:ReEncryptOnSameKey", "true", re_encrypted(same=False), re_encrypted(same=True)),
        ("Encrypt", "kms:RequestAlias", MAIN, encrypted("arn"), encrypted(MAIN)),
        ("Decrypt", "kms:RequestAlias", MAIN, decrypted("arn"), decrypted(MAIN)),
        ("ReEncryptTo", "kms:RequestAlias", MAIN, moved_to("arn"), moved_to(MAIN)),
    ],
)
def test_conditions_see_what_is_asked_for(
    keystore: Keystore, action: str, key: str, value: str, allowed: Call, denied: Call
) -> None:
    """At the command line, too."""
    keystore.principals.create("alice")
    condition = {"StringEquals": {key: value}}
    rules = policy(allow("kms:*", ROOT), deny(f"kms:{action}", "*", Condition=condition))
    keystore.put_key_policy(MAIN, json.dumps(rules), region=US)
    for _ in range(2):
        allowed(keystore)
        with pytest.raises(AccessDeniedError, match=f"to perform: kms:{action}"):
            denied(keystore)


def denying(action: str, key: str, value: str, operator: str = "StringEquals") -> str:
    """The policy that allows the root everything but an action under a condition."""
    return json.dumps(policy(allow("kms:*", ROOT), deny(action, "*", Condition={operator: {key: value}})))


@pytest.mark.parametrize(
    ("key", "operator", "value"),
    [
        ("kms:ExpirationModel", "StringEquals", "KEY_MATERIAL_DOES_NOT_EXPIRE"),
        ("kms:ValidTo", "Null", "true"),
    ],
)
def test_conditions_see_what_is_imported(keystore: Keystore, key: str, operator: str, value: str) -> None:
    rules = denying("kms:ImportKeyMaterial", key, value, operator)
    arn = keystore.create_key(US, origin=Origin.EXTERNAL, policy=rules).arn
    with pytest.raises(AccessDeniedError, match="ImportKeyMaterial"):
        keystore.import_material(arn, Arrival(bytes(32)))
    keystore.import_material(arn, Arrival(bytes(32), expires_at=time.time() + 3600))


@pytest.mark.parametrize(
    ("key", "value"), [("kms:WrappingAlgorithm", "RSAES_OAEP_SHA_1"), ("kms:WrappingKeySpec", "RSA_2048")]
)
def test_conditions_see_how_material_is_to_be_wrapped(keystore: Keystore, key: str, value: str) -> None:
    """Asked for again and again, which changes nothing: what was allowed once does not stand for what differs."""
    rules = denying("kms:GetParametersForImport", key, value)
    arn = keystore.create_key(US, origin=Origin.EXTERNAL, policy=rules).arn
    for _ in range(2):
        keystore.import_parameters(arn, "RSAES_OAEP_SHA_256", "RSA_3072")
        with pytest.raises(AccessDeniedError, match="GetParametersForImport"):
            keystore.import_parameters(arn, "RSAES_OAEP_SHA_1", "RSA_2048")


def test_conditions_see_where_keys_are_to_be(keystore: Keystore) -> None:
    arn = keystore.create_key(
        US, multi_region=True, policy=denying("kms:ReplicateKey", "kms:ReplicaRegion", EU)
    ).arn
    with pytest.raises(AccessDeniedError, match="ReplicateKey"):
        keystore.replicate_key(arn, EU)
    moves = denying("kms:UpdatePrimaryRegion", "kms:PrimaryRegion", EU)
    keystore.put_key_policy(arn, moves)
    replica = keystore.replicate_key(arn, EU).arn
    with pytest.raises(AccessDeniedError, match="UpdatePrimaryRegion"):
        keystore.update_primary_region(arn, EU)
    keystore.put_key_policy(arn, json.dumps(policy(allow("kms:*", ROOT))))
    keystore.put_key_policy(replica, moves)
    with pytest.raises(AccessDeniedError, match=f"UpdatePrimaryRegion on resource: {replica}"):
        keystore.update_primary_region(arn, EU)
    for region in (US, EU):  # each log tells what its region refused, or could not do for that
        assert results(keystore.home, "UpdatePrimaryRegion", region)[-1] == (ROOT, "AccessDeniedError")
    keystore.put_key_policy(replica, json.dumps(policy(allow("kms:*", ROOT))))
    keystore.update_primary_region(arn, EU)


def test_old_material_is_retired_without_any_waiting_period(keystore: Keystore) -> None:
    waits = denying(
        "kms:ScheduleKeyDeletion", "kms:ScheduleKeyDeletionPendingWindowInDays", "7", "NumericLessThan"
    )
    keystore.put_key_policy(MAIN, waits, region=US)
    with pytest.raises(AccessDeniedError, match="ScheduleKeyDeletion"):
        keystore.retire_key_material(MAIN, region=US)


def test_who_may_do_something_by_a_grant_hands_on_no_more(keystore: Keystore) -> None:
    keystore.create_grant(MAIN, NewGrant(ROOT, frozenset({"Decrypt", "CreateGrant"})), region=US)
    keystore.principals.create("alice")
    keystore.put_key_policy(MAIN, NO_ONE, bypass_lockout_check=True, region=US)
    with pytest.raises(AccessDeniedError, match="CreateGrant"):
        keystore.create_grant(MAIN, NewGrant(ROOT, frozenset({"Encrypt"})), region=US)
    keystore.create_grant(MAIN, NewGrant(ALICE, frozenset({"Decrypt"})), region=US)
    assert results(keystore.home, "CreateGrant", US) == [
        (ROOT, "ok"),
        (ROOT, "AccessDeniedError"),
        (ROOT, "ok"),
    ]


def test_conditions_see_whose_grant_is_removed(keystore: Keystore) -> None:
    subset, equals = Constraints(subset={"a": "b"}), Constraints(equals={"a": "b"})
    of_subset, of_equals = (
        keystore.create_grant(MAIN, NewGrant(ROOT, frozenset({"Decrypt"}), constraints), region=US)[0]
        for constraints in (subset, equals)
    )
    kind = denying("kms:RetireGrant", "kms:GrantConstraintType", "EncryptionContextEquals")
    keystore.put_key_policy(MAIN, kind, region=US)
    with pytest.raises(AccessDeniedError, match="RetireGrant"):
        keystore.retire_grant(of_equals)
    keystore.retire_grant(of_subset)
    keystore.put_key_policy(
        MAIN, denying("kms:RevokeGrant", "kms:GrantIsForAWSResource", "false", "Bool"), region=US
    )
    with pytest.raises(AccessDeniedError, match="RevokeGrant"):
        keystore.revoke_grant(MAIN, of_equals.grant.grant_id, region=US)


def test_each_of_many_uses_is_asked_for(keystore: Keystore) -> None:
    arn, contexts = keystore.resolve(MAIN, region=US).arn, [{"f": "1"}, {"f": "2"}]
    blobs = [keystore.encrypt(arn, bytes(32), context).blob for context in contexts]
    for action in ("Encrypt", "ReEncryptFrom", "GenerateDataKey"):
        keystore.put_key_policy(arn, denying(f"kms:{action}", "kms:EncryptionContext:f", "2"))
        many: Callable[[int], object] = {
            "Encrypt": lambda n: keystore.wrap_data_keys(arn, [bytes(32)] * n, contexts[:n]),
            "ReEncryptFrom": lambda n: keystore.unwrap_data_keys(arn, blobs[:n], contexts[:n]),
            "GenerateDataKey": lambda n: keystore.generate_data_keys(arn, contexts[:n]),
        }[action]
        many(0)
        many(1)
        with pytest.raises(AccessDeniedError, match=action):
            many(2)
        assert results(keystore.home, action, US)[-2:] == [(ROOT, "ok"), (ROOT, "AccessDeniedError")]
        (refused,) = [
            found for found in records(keystore.home, US) if found["result"] == "AccessDeniedError"
        ][-1:]
        assert refused["context"] == {"f": "2"}


def test_a_key_and_its_replica_are_not_the_same(keystore: Keystore) -> None:
    arn = keystore.create_key(
        US, multi_region=True, policy=denying("kms:ReEncryptFrom", "kms:ReEncryptOnSameKey", "false", "Bool")
    ).arn
    replica = keystore.replicate_key(arn, EU).arn
    blob = keystore.encrypt(arn, b"x", {}).blob
    keystore.re_encrypt(blob, {}, arn, {})
    keystore.re_encrypt(blob, {}, arn, {}, source_ref=arn)
    for source in (None, arn):
        with pytest.raises(AccessDeniedError, match="ReEncryptFrom"):
            keystore.re_encrypt(blob, {}, replica, {}, source_ref=source)


def test_nothing_is_decrypted_for_a_key_that_is_not_there(keystore: Keystore) -> None:
    blob = keystore.encrypt(MAIN, b"x", {}, region=US).blob
    with pytest.raises(AliasNotFoundError):
        keystore.re_encrypt(blob, {}, "alias/typo", {}, region=US)
    assert results(keystore.home, "ReEncryptFrom", US) == []


def test_names_of_a_context_are_folded_by_themselves(keystore: Keystore) -> None:
    """A capital sigma at the end of a word is another small letter than elsewhere."""
    sigma = denying("kms:Encrypt", "kms:EncryptionContext:\u03a3", "1")
    keystore.put_key_policy(MAIN, sigma, region=US)
    for name in ("\u03a3", "\u03c3"):
        with pytest.raises(AccessDeniedError, match="Encrypt"):
            keystore.encrypt(MAIN, b"x", {name: "1"}, region=US)
    keystore.encrypt(MAIN, b"x", {"\u03a3": "2"}, region=US)


def test_a_constraint_that_constrains_nothing_is_none(keystore: Keystore) -> None:
    only_constrained = json.dumps(
        policy(
            allow("kms:PutKeyPolicy", ROOT),
            allow("kms:CreateGrant", ROOT, Condition={"Null": {"kms:GrantConstraintType": "false"}}),
        )
    )
    keystore.put_key_policy(MAIN, only_constrained, region=US)
    with pytest.raises(AccessDeniedError, match="CreateGrant"):
        keystore.create_grant(MAIN, NewGrant(ROOT, frozenset({"Decrypt"}), Constraints(subset={})), region=US)
    keystore.create_grant(
        MAIN, NewGrant(ROOT, frozenset({"Decrypt"}), Constraints(subset={"a": "b"})), region=US
    )


def test_a_policy_of_a_new_key_is_checked_as_one_of_a_key(keystore: Keystore) -> None:
    keys = f"arn:aws:kms:{US}:{ACCOUNT}:key/*"
    own = json.dumps(policy(allow("kms:*", ROOT), {**deny("kms:PutKeyPolicy", "*"), "Resource": keys}))
    with pytest.raises(MalformedPolicyError, match="will not allow you"):
        keystore.check_new_policy(US, Caller("root"), own)
    keystore.check_new_policy(
        US, Caller("root"), json.dumps(policy({**allow("kms:*", ROOT), "Resource": keys}))
    )


def test_a_data_key_that_nobody_sees_is_a_use_of_its_own(keystore: Keystore) -> None:
    rules = policy(allow("kms:*", ROOT), deny("kms:GenerateDataKeyWithoutPlaintext", "*"))
    keystore.put_key_policy(MAIN, json.dumps(rules), region=US)
    keystore.generate_data_key(MAIN, {}, region=US)
    with pytest.raises(AccessDeniedError, match="GenerateDataKeyWithoutPlaintext"):
        keystore.generate_data_key(MAIN, {}, region=US, for_use=False)


def test_a_use_that_names_no_key_is_recorded(keystore: Keystore) -> None:
    blob = keystore.encrypt(MAIN, b"x", {}, region=US).blob
    with pytest.raises(InvalidRequestError):
        keystore.decrypt(blob, {}, ref="no key")
    assert results(keystore.home, "Decrypt", US) == [(ROOT, "InvalidRequestError")]


def test_no_right_to_bypass_the_check_is_needed_to_pass_it(keystore: Keystore) -> None:
    checked = {"Bool": {"kms:BypassPolicyLockoutSafetyCheck": "false"}}
    only_so = json.dumps(policy(allow("kms:*", ROOT, Condition=checked)))
    for _ in range(2):
        keystore.put_key_policy(MAIN, only_so, region=US)


def test_conditions_see_the_algorithm_of_every_use(keystore: Keystore) -> None:
    symmetric = {"StringEquals": {"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}}
    uses = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*"]
    rules = policy(allow("kms:PutKeyPolicy", ROOT), allow(uses, ROOT, Condition=symmetric))
    keystore.put_key_policy(MAIN, json.dumps(rules), region=US)
    arn = keystore.resolve(MAIN, region=US).arn
    keystore.generate_data_keys(arn, [{}])
    blob = keystore.generate_data_key(arn, {}).blob
    assert keystore.decrypt(keystore.re_encrypt(blob, {}, arn, {}).blob, {}).key_arn == arn
    sha_256 = {"StringEquals": {"kms:MacAlgorithm": "HMAC_SHA_256"}}
    rules = policy(allow("kms:PutKeyPolicy", ROOT), allow("kms:*Mac", ROOT, Condition=sha_256))
    mac_key = keystore.create_key(US, spec=KeySpec.HMAC_256, policy=json.dumps(rules)).arn
    mac = keystore.generate_mac(mac_key, b"x", "HMAC_SHA_256")
    keystore.verify_mac(mac_key, b"x", "HMAC_SHA_256", mac)

"""The evaluator's table once more, from stored rows; and what stands, what is asked anew, what cannot be read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from testkit.policy_cases import (
    ACCOUNT,
    ALICE,
    BOB,
    CASES,
    KEY_ARN,
    REGION,
    ROOT,
    Case,
    Json,
    allow,
    deny,
    grant,
    policy,
    text,
    when,
)

from kmsfs.errors import AccessDeniedError, MalformedPolicyError
from kmsfs.format.blob import Suite
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore import authorize
from kmsfs.keystore.access import NewGrant
from kmsfs.keystore.authorize import Authorizer, Caller, time_context
from kmsfs.keystore.model import (
    AliasEntry,
    GrantEntry,
    KeyManager,
    KeyMetadata,
    KeyState,
    Material,
    UserEntry,
)
from kmsfs.keystore.policy.context import _NEVER_SUPPLIED, KNOWN_KEYS, parameter
from kmsfs.keystore.policy.grants import Constraints, Grant
from kmsfs.keystore.snapshot import Snapshot

KEY_ID = KeyId(KEY_ARN.rpartition("/")[2])
US = Region(REGION)
MATERIAL = Material(MaterialId(bytes(32)), Suite.HSM_GCM, 1.0)
KEY = KeyMetadata(
    KEY_ID, KeyArn(KEY_ARN), US, ACCOUNT, "", KeyState.ENABLED, KeyManager.CUSTOMER, 1.0,
    MATERIAL.material_id, (MATERIAL,),
)  # fmt: skip
TRUSTING = text(policy(allow(principal=ROOT)))
MAY_DECRYPT = text(policy(allow("kms:Decrypt")))
NAMES = {ROOT: "root", ALICE: "alice", BOB: "bob"}
OWN_CASES = [
    case for case in CASES if case.caller in NAMES and (case.key_policy is None or case.resource == KEY_ARN)
]


def users(*names: str) -> Mapping[str, UserEntry]:
    return {
        name: UserEntry(name, f"AIDA{name}", f"arn:aws:iam::{ACCOUNT}:user/{name}", 1.0) for name in names
    }


def snapshot(**more: Any) -> Snapshot:
    nothing: Mapping[Any, Any] = MappingProxyType({})
    given_names = ("region", "account", "counter", "next_due", "standing")
    fields = [name for name in Snapshot.__slots__ if name not in given_names]
    empty: dict[str, Any] = dict.fromkeys(fields, nothing)
    given = {"keys": {KEY_ID: KEY}, "users": users("alice", "bob"), **more}
    return Snapshot(region=US, account=ACCOUNT, counter=1, next_due=0.0, **{**empty, **given})


def granted(raw: Json) -> GrantEntry:
    constraints = raw.get("Constraints", {})
    made = Grant(
        raw["GrantId"],
        raw["GranteePrincipal"],
        frozenset(raw["Operations"]),
        Constraints(constraints.get("EncryptionContextEquals"), constraints.get("EncryptionContextSubset")),
        raw.get("RetiringPrincipal"),
    )
    return GrantEntry(made, KEY_ID, KeyArn(KEY_ARN), ROOT, None, 1.0)


def authorizer(**more: Any) -> Authorizer:
    found = snapshot(**more)
    return Authorizer(SimpleNamespace(snapshot=found))


def stored(case: Case) -> Authorizer:
    identity = {f"p{number}": text(document) for number, document in enumerate(case.identity)}
    return authorizer(
        identity_policies={NAMES[case.caller]: identity},
        key_policies={KEY_ID: text(case.key_policy)} if case.key_policy else {},
        grants={raw["GrantId"]: granted(raw) for raw in case.grants},
        tags={KEY_ID: case.tags},
        aliases={name: AliasEntry(name, "", US, KEY_ID, 1.0, 1.0) for name in case.aliases},
    )


@pytest.mark.parametrize("case", OWN_CASES, ids=str)
def test_stored_policies_decide_as_the_table_says(case: Case) -> None:
    values = (
        parameter(key, *(value if isinstance(value, list) else [value]))
        for key, value in case.parameters.items()
    )
    context = {key: found for part in values for key, found in part.items()}
    key = KEY if case.key_policy is not None else None
    deciding, caller = stored(case), Caller(NAMES[case.caller])
    request = deciding.request(
        caller, case.action, key, resource=case.resource, context=context, pairs=case.encryption_context
    )
    assert deciding.decide(caller, request, key).outcome is case.outcome
    assert (request.resource, request.account) == (case.resource, ACCOUNT)


def test_most_of_the_table_was_decided() -> None:
    assert len(OWN_CASES) > 120


def test_a_refusal_has_the_words_of_aws() -> None:
    with pytest.raises(AccessDeniedError) as refusal:
        authorizer().require(Caller("alice"), "kms:Decrypt", KEY)
    assert str(refusal.value) == (
        f"User: {ALICE} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN} "
        "because no identity-based policy allows the kms:Decrypt action"
    )


def test_a_user_who_does_not_exist_may_nothing() -> None:
    deciding = authorizer(
        key_policies={KEY_ID: text(policy(allow(principal="*")))},
        identity_policies={"gone": {"default": MAY_DECRYPT}},
    )
    with pytest.raises(AccessDeniedError):
        deciding.require(Caller("gone"), "kms:Decrypt", KEY)
    deciding.require(Caller("bob"), "kms:Decrypt", KEY)
    assert deciding.principal("bob").user_id == "AIDAbob"


def test_a_stored_policy_that_does_not_parse_denies_everything() -> None:
    unknown = text(policy(allow(principal=ROOT, Condition=when("StringNearly", "kms:ViaService", "x"))))
    by_grant = {"g-1": granted(grant(ALICE, "Decrypt"))}
    for document in (unknown, "not JSON", "x" * 40_000):
        deciding = authorizer(key_policies={KEY_ID: document}, grants=by_grant)
        for name in ("root", "alice"):
            with pytest.raises(AccessDeniedError):
                deciding.require(Caller(name), "kms:Decrypt", KEY)
    deciding = authorizer(identity_policies={"alice": {"a": MAY_DECRYPT, "b": unknown}})
    with pytest.raises(AccessDeniedError):
        deciding.require(Caller("alice"), "kms:Decrypt", KEY)


def test_the_lock_out_check() -> None:
    deciding = authorizer(identity_policies={"bob": {"default": text(policy(allow("kms:PutKeyPolicy")))}})
    only_alice = text(policy(allow(principal=ALICE)))
    for key in (KEY, None):
        deciding.check_lockout(Caller("alice"), only_alice, key)
        deciding.check_lockout(Caller("bob"), TRUSTING, key)
        for name, document in (("root", only_alice), ("alice", TRUSTING), ("bob", only_alice)):
            with pytest.raises(MalformedPolicyError, match="will not allow you to update"):
                deciding.check_lockout(Caller(name), document, key)
    with pytest.raises(MalformedPolicyError):
        deciding.check_lockout(Caller("root"), "{}", KEY)


# --- decisions that stand -----------------------------------------------------------------------
class Asking:
    """A process that asks again and again, and how often it was decided."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
        self.snapshot = snapshot(**more)
        self.authorizer = Authorizer(self)
        self.decided = 0
        decide = authorize.decide

        def counted(*arguments: Any, **named: Any) -> Any:
            self.decided += 1
            return decide(*arguments, **named)

        monkeypatch.setattr(authorize, "decide", counted)

    def ask(self, name: str, **pairs: str) -> None:
        if (name, "Decrypt", KEY_ID) not in self.snapshot.standing:
            self.authorizer.require_standing(
                name, "Decrypt", KEY, circumstances=time_context(2e9), pairs=pairs
            )


def test_what_is_allowed_stands_until_the_metadata_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(monkeypatch)
    for _ in range(5):
        asking.ask("root", file="1")
    assert asking.decided == 1
    asking.snapshot = snapshot(key_policies={KEY_ID: text(policy(allow(principal=ALICE)))})
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            asking.ask("root", file="1")
    assert asking.decided == 3  # a refusal is never kept
    asking.ask("alice")


@pytest.mark.parametrize(
    "condition",
    [
        when("StringEquals", "kms:EncryptionContext:file", "1"),
        when("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "file"),
        when("StringLike", "kms:EncryptionContext:file", "${kms:EncryptionContext:file}"),
        when("DateLessThan", "aws:CurrentTime", "2034-01-01T00:00:00Z"),
        when("NumericGreaterThan", "aws:EpochTime", "1"),
        {"Null": {"kms:EncryptionContext:other": "true"}},
    ],
    ids=json.dumps,
)
def test_what_may_differ_each_time_is_asked_each_time(
    condition: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = text(policy(allow(principal=ROOT, Condition=condition)))
    asking = Asking(monkeypatch, key_policies={KEY_ID: document})
    for _ in range(3):
        asking.ask("root", file="1")
    assert asking.decided == 3


STANDING = """
    aws:PrincipalAccount aws:PrincipalArn aws:PrincipalIsAWSService aws:PrincipalType aws:RequestedRegion
    aws:ResourceAccount aws:userid aws:username aws:ViaAWSService kms:CallerAccount kms:CustomerMasterKeySpec
    kms:CustomerMasterKeyUsage kms:EncryptionAlgorithm kms:GrantIsForAWSResource kms:KeyOrigin kms:KeySpec kms:KeyUsage
    kms:MultiRegion kms:MultiRegionKeyType kms:PolicyName kms:ResourceAliases kms:ViaService
""".lower().split()


@pytest.mark.parametrize(
    "key",
    [
        *sorted(KNOWN_KEYS - {key.lower() for key in _NEVER_SUPPLIED}),
        "aws:requesttag/team",
        "kms:encryptioncontext:file",
        "aws:resourcetag/team",
        "aws:principaltag/team",
    ],
)
def test_only_what_is_alike_for_all_requests_stands(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    never = deny("kms:*", "*", Condition=when("StringEquals", key, "nothing like it"))
    asking = Asking(monkeypatch, key_policies={KEY_ID: text(policy(allow(principal=ROOT), never))})
    for _ in range(3):
        asking.ask("root")
    stands = key in STANDING or key.startswith(("aws:resourcetag/", "aws:principaltag/"))
    assert asking.decided == (1 if stands else 3)


def test_a_file_that_a_policy_denies_is_denied_after_others_were_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_second = deny("kms:Decrypt", Condition=when("StringEquals", "kms:EncryptionContext:file", "2"))
    identity = {"alice": {"default": text(policy(allow("kms:Decrypt"), no_second))}}
    asking = Asking(monkeypatch, identity_policies=identity)
    asking.ask("alice", file="1")
    with pytest.raises(AccessDeniedError):
        asking.ask("alice", file="2")


def test_the_constraints_of_a_grant_are_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    constrained = grant(ALICE, "Decrypt", Constraints={"EncryptionContextSubset": {"file": "1"}})
    asking = Asking(monkeypatch, grants={"g-1": granted(constrained)})
    asking.ask("alice", file="1")
    with pytest.raises(AccessDeniedError):
        asking.ask("alice", file="2")
    asking.snapshot = snapshot(grants={"g-1": granted(grant(ALICE, "Decrypt"))})
    before = asking.decided
    for file in ("1", "2"):
        asking.ask("alice", file=file)
    assert asking.decided == before + 1


def test_a_variable_in_a_resource_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    statement = {**allow("kms:Decrypt"), "Resource": KEY_ARN[:-1] + "${kms:EncryptionContext:last}"}
    asking = Asking(monkeypatch, identity_policies={"alice": {"default": text(policy(statement))}})
    asking.ask("alice", last=KEY_ARN[-1])
    with pytest.raises(AccessDeniedError):
        asking.ask("alice", last="x")


# --- grants -------------------------------------------------------------------------------------
def test_who_may_create_grants_by_a_grant_hands_on_no_more() -> None:
    parents = [
        grant(ALICE, "CreateGrant", "Decrypt", GrantId="g-1"),
        grant(ALICE, "CreateGrant", "Encrypt", GrantId="g-2"),
    ]
    deciding = authorizer(grants={raw["GrantId"]: granted(raw) for raw in parents})

    def create(name: str, *operations: str) -> None:
        deciding.require_grant(Caller(name), KEY, NewGrant(BOB, frozenset(operations)))

    create("alice", "Decrypt")
    create("alice", "Encrypt")
    create("root", "Decrypt", "Encrypt", "GenerateDataKey")
    for refused in (("alice", "Decrypt", "Encrypt"), ("alice", "GenerateDataKey"), ("bob", "Decrypt")):
        with pytest.raises(AccessDeniedError, match="kms:CreateGrant"):
            create(*refused)


def test_a_grant_to_the_account_serves_users_with_a_policy() -> None:
    deciding = authorizer(
        key_policies={KEY_ID: text(policy(allow("kms:DescribeKey", ROOT)))},
        grants={"g-1": granted(grant(ROOT, "Decrypt"))},
        identity_policies={"alice": {"default": MAY_DECRYPT}},
    )
    for name in ("root", "alice"):
        deciding.require(Caller(name), "kms:Decrypt", KEY)
    with pytest.raises(AccessDeniedError):
        deciding.require(Caller("bob"), "kms:Decrypt", KEY)


def test_a_grant_of_the_account_counts_for_those_whom_identity_policies_let_use_it() -> None:
    grants = [
        grant(ALICE, "CreateGrant", "Encrypt", GrantId="g-1"),
        grant(ROOT, "CreateGrant", "Encrypt", "Decrypt", GrantId="g-2"),
    ]
    only_root = {KEY_ID: text(policy(allow("kms:PutKeyPolicy", ROOT)))}
    held = {raw["GrantId"]: granted(raw) for raw in grants}
    wanted = NewGrant(ALICE, frozenset({"Decrypt"}))
    with pytest.raises(AccessDeniedError):
        authorizer(grants=held, key_policies=only_root).require_grant(Caller("alice"), KEY, wanted)
    let = {"alice": {"default": text(policy(allow("kms:CreateGrant")))}}
    let_by_identity = authorizer(grants=held, key_policies=only_root, identity_policies=let)
    let_by_identity.require_grant(Caller("alice"), KEY, wanted)


def test_who_may_retire_a_grant() -> None:
    plain = granted(grant(ALICE, "Decrypt"))
    by_grantee = granted(grant(ALICE, "Decrypt", "RetireGrant"))
    by_bob = granted(grant(ALICE, "Decrypt", RetiringPrincipal=BOB))
    may_all = {"bob": {"default": text(policy(allow("kms:*")))}}
    deciding = authorizer(identity_policies=may_all)
    for entry, names in ((plain, {"root"}), (by_grantee, {"root", "alice"}), (by_bob, {"root", "bob"})):
        for name in NAMES.values():
            if name in names:
                deciding.require_retirement(Caller(name), entry, KEY)
            else:
                with pytest.raises(AccessDeniedError, match="kms:RetireGrant"):
                    deciding.require_retirement(Caller(name), entry, KEY)
    denying = authorizer(key_policies={KEY_ID: text(policy(deny("kms:RetireGrant", "*")))})
    for name in ("root", "bob"):
        with pytest.raises(AccessDeniedError, match="explicit deny"):
            denying.require_retirement(Caller(name), by_bob, KEY)
    by_one_who_is_gone = granted(grant(ALICE, "Decrypt", RetiringPrincipal=ALICE.replace("alice", "gone")))
    with pytest.raises(AccessDeniedError, match="kms:RetireGrant"):
        deciding.require_retirement(Caller("gone"), by_one_who_is_gone, KEY)
    other = replace(plain, account_arn="arn:aws:iam::999999999999:root")
    with pytest.raises(AccessDeniedError):
        deciding.require_retirement(Caller("root"), other, KEY)

"""Key policies and grants as they are kept: whole, authentic, refused when they name nobody, gone with their key."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.policy_cases import allow, policy

from kmsfs.errors import (
    AccessDeniedError,
    GrantNotFoundError,
    InvalidArnError,
    InvalidGrantIdError,
    InvalidGrantTokenError,
    InvalidRequestError,
    KeyDisabledError,
    LimitExceededError,
    MalformedPolicyError,
)
from kmsfs.keystore import access
from kmsfs.keystore.access import NewGrant, grant_of_token, key_policy, new_grant_token
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.policy.document import PolicyKind, default_key_policy, parse_policy
from kmsfs.keystore.policy.grants import Constraints
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.service import Keystore

US = "us-east-1"
ACCOUNT = "000000000000"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
STRANGER = "arn:aws:iam::111122223333:user/bob"
WANTED = NewGrant(
    ALICE,
    frozenset({"Decrypt", "Encrypt"}),
    Constraints(subset={"team": "blue"}),
    retiring_principal=ROOT,
    name="a-name",
)


@pytest.fixture
def service(keystore: Keystore) -> RegionService:
    keystore.principals.create("alice")
    return keystore._service(US)


@pytest.fixture
def key(keystore: Keystore, service: RegionService) -> KeyMetadata:
    return keystore.describe_key("alias/main", region=US)


def reread(ks_home: Path, key: KeyMetadata) -> str:
    with Keystore.open(ks_home) as other:
        return key_policy(other._service(US).snapshot, key)


def test_a_policy_is_kept_word_by_word(service: RegionService, key: KeyMetadata, ks_home: Path) -> None:
    assert reread(ks_home, key) == default_key_policy(ACCOUNT)
    document = json.dumps(policy(allow(principal=[ALICE, ROOT, STRANGER])), indent=3)
    service.access.put_policy(key.key_id, document)
    assert reread(ks_home, key) == document


@pytest.mark.parametrize("name", [f"arn:aws:iam::{ACCOUNT}:user/nobody", f"arn:aws:iam::{ACCOUNT}:role/any"])
def test_a_policy_names_principals_that_exist(service: RegionService, key: KeyMetadata, name: str) -> None:
    with pytest.raises(MalformedPolicyError, match="invalid principal"):
        service.access.put_policy(key.key_id, json.dumps(policy(allow(principal=[ALICE, name]))))
    assert service.snapshot.key_policies == {}


def test_a_policy_that_does_not_parse_is_not_kept(service: RegionService, key: KeyMetadata) -> None:
    unknown = allow(principal=ROOT, Condition={"StringNearly": {"kms:ViaService": "x"}})
    with pytest.raises(MalformedPolicyError, match="StringNearly"):
        service.access.put_policy(key.key_id, json.dumps(policy(unknown)))


def test_the_policy_of_a_managed_key_is_fixed(keystore: Keystore, service: RegionService) -> None:
    managed = keystore.managed_key(US)
    document = key_policy(service.snapshot, managed)
    assert "kmsfs.us-east-1.amazonaws.com" in document
    parse_policy(document, PolicyKind.KEY)
    with pytest.raises(AccessDeniedError):
        service.access.put_policy(managed.key_id, default_key_policy(ACCOUNT))
    with pytest.raises(AccessDeniedError):
        service.access.create_grant(managed.key_id, WANTED)


def test_a_grant_comes_back_as_it_was_made(service: RegionService, key: KeyMetadata, ks_home: Path) -> None:
    entry = service.access.create_grant(key.key_id, WANTED)
    plain = service.access.create_grant(key.key_id, NewGrant(STRANGER, frozenset({"DescribeKey"})))
    with Keystore.open(ks_home) as other:
        found = other._service(US).snapshot.grants
    assert dict(found) == {entry.grant.grant_id: entry, plain.grant.grant_id: plain}
    shown = entry.to_aws()
    assert shown["Operations"] == ["Decrypt", "Encrypt"]
    assert shown["Constraints"] == {"EncryptionContextSubset": {"team": "blue"}}
    assert shown["RetiringPrincipal"] == shown["IssuingAccount"] == ROOT
    assert not {"Constraints", "RetiringPrincipal", "Name"} & set(plain.to_aws())


def test_the_same_grant_under_the_same_name_is_one(service: RegionService, key: KeyMetadata) -> None:
    first = service.access.create_grant(key.key_id, WANTED)
    assert service.access.create_grant(key.key_id, WANTED) == first
    wider = replace(WANTED, constraints=access.NO_CONSTRAINTS)
    assert service.access.create_grant(key.key_id, wider) != first
    nameless = replace(WANTED, name=None)
    made = {service.access.create_grant(key.key_id, nameless).grant.grant_id for _ in range(2)}
    assert len(made) == 2
    assert len(service.snapshot.grants) == 4


def test_grants_that_cannot_be_made(
    keystore: Keystore, service: RegionService, key: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(**more: object) -> object:
        return service.access.create_grant(key.key_id, replace(WANTED, **more))  # type: ignore[arg-type]

    with pytest.raises(InvalidArnError):
        make(grantee=f"arn:aws:iam::{ACCOUNT}:user/nobody")
    with pytest.raises(InvalidArnError):
        make(retiring_principal=f"arn:aws:iam::{ACCOUNT}:user/nobody")
    with pytest.raises(InvalidArnError):
        make(grantee="alice")
    with pytest.raises(InvalidRequestError):
        make(operations=frozenset())
    for name in ("", "n" * 257, "a\0", "\udcff", "a b"):
        with pytest.raises(InvalidRequestError, match="grant name"):
            make(name=name)
    with monkeypatch.context() as patched:
        patched.setattr(access, "MAX_GRANTS", 0)
        with pytest.raises(LimitExceededError):
            make()
    keystore.disable_key(key.arn)
    with pytest.raises(KeyDisabledError):
        make()
    assert service.snapshot.grants == {}


def test_a_grant_is_removed_from_its_own_key(
    keystore: Keystore, service: RegionService, key: KeyMetadata
) -> None:
    other = keystore.create_key(US)
    grant_id = service.access.create_grant(key.key_id, WANTED).grant.grant_id
    for key_id, name in ((other.key_id, grant_id), (key.key_id, "0" * 64)):
        with pytest.raises(GrantNotFoundError):
            service.access.remove_grant(key_id, name)
    for name in ("", "0" * 63, "0" * 65, "g" * 64, grant_id.upper(), grant_id + "\n"):
        with pytest.raises(InvalidGrantIdError):
            service.access.remove_grant(key.key_id, name)
    service.access.remove_grant(key.key_id, grant_id)
    assert service.snapshot.grants == {}


def test_tokens_name_grants(service: RegionService, key: KeyMetadata) -> None:
    entry = service.access.create_grant(key.key_id, WANTED)
    tokens = {new_grant_token(entry) for _ in range(2)}
    assert len(tokens) == 2
    for token in tokens:
        assert grant_of_token(service.snapshot, token) == entry
    service.access.remove_grant(key.key_id, entry.grant.grant_id)
    for token in (*tokens, "", "nonsense!", "QUFBQQ=="):
        with pytest.raises(InvalidGrantTokenError):
            grant_of_token(service.snapshot, token)


def test_policies_and_grants_go_with_their_key(keystore: Keystore, service: RegionService) -> None:
    key = keystore.create_key(US)
    service.access.put_policy(key.key_id, json.dumps(policy(allow(principal=ROOT))))
    service.access.create_grant(key.key_id, WANTED)
    keystore.schedule_key_deletion(key.arn, days=7)
    service.lifecycle._condemn(key.key_id, 2**40)
    service.lifecycle._bury(key.key_id)
    assert service.snapshot.grants == service.snapshot.key_policies == {}

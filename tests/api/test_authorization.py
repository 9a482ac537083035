"""Who may do what, over the wire: ten rows of the evaluator's table, the lesson's policies, and grants."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from testkit.home import Home, make_home
from testkit.policy_cases import ACCOUNT as TABLE_ACCOUNT
from testkit.policy_cases import ALICE as TABLE_ALICE
from testkit.policy_cases import CASES, Case, allow, deny, policy, text
from testkit.policy_cases import ROOT as TABLE_ROOT
from testkit.serving import Serving, refused, serving

from kmsfs.keystore.policy.evaluate import ALLOWING
from kmsfs.keystore.service import Keystore

US = "us-east-1"
ACCOUNT = "000000000000"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
USER = f"arn:aws:iam::{ACCOUNT}:user/"
MAY_USE = text(policy(allow(["kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"])))
ALL_BUT_BOBS = text(
    policy(allow("kms:ListRetirableGrants"), {**deny("kms:ListRetirableGrants"), "Resource": USER + "bob"})
)

ON_THE_WIRE = [
    "root under the default policy",
    "user without identity policy",
    "user with identity policy",
    "root is not named by its user",
    "key policy deny beats its allow",
    "identity deny beats a grant",
    "context value equals",
    "for all values: one beyond",
    "resource tag of another value",
    "subset with more pairs",
    "grant where the key policy trusts no one",
]
TABLE = {case.name: case for case in CASES}


def caller_of(number: int) -> str:
    """Each row's alice is a user of its own, so that their policies can be there before the server is."""
    return f"alice-{number}"


def here(document: str, number: int) -> str:
    """Return a document of the table as one of this account and its user."""
    return document.replace(TABLE_ALICE, USER + caller_of(number)).replace(TABLE_ACCOUNT, ACCOUNT)


class Clients:
    """boto3 clients of one server, one for each user."""

    def __init__(self, served: Serving, keys: dict[str, Any]) -> None:
        self.served, self._keys = served, keys
        self.root = served.client(US)

    def of(self, name: str) -> Any:
        made = self._keys[name]
        return self.served.client(US, access_key_id=made.access_key_id, secret=made.secret)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    home = make_home(tmp_path_factory.mktemp("authz") / "home", region=US)
    keys = _users(home)
    with serving(home) as served:
        yield Clients(served, keys)


def _users(home: Home) -> dict[str, Any]:
    """Make the users of the table, and bob, who may use keys, carol, who may nothing, and dave."""
    names = [*(caller_of(number) for number in range(len(ON_THE_WIRE))), "bob", "carol", "dave", "gone"]
    with Keystore.open(home.path) as keystore:
        for name in names:
            keystore.principals.create(name)
        keystore.principals.put_policy("bob", MAY_USE)
        keystore.principals.put_policy("dave", ALL_BUT_BOBS)
        for number, row in enumerate(ON_THE_WIRE):
            for place, document in enumerate(TABLE[row].identity):
                keystore.principals.put_policy(
                    caller_of(number), here(text(document), number), policy=f"p{place}"
                )
        return {name: keystore.credentials.create(name) for name in names}


@pytest.mark.parametrize("number", range(len(ON_THE_WIRE)), ids=ON_THE_WIRE)
def test_rows_of_the_table(clients: Clients, number: int) -> None:
    case = TABLE[ON_THE_WIRE[number]]
    assert case.action == "kms:Decrypt"
    root = clients.root
    tags = [{"TagKey": name, "TagValue": value} for name, value in case.tags.items()]
    key = root.create_key(Tags=tags)["KeyMetadata"]["Arn"]
    context = case.encryption_context
    blob = root.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"]
    _grant(root, key, case, number)
    root.put_key_policy(
        KeyId=key, Policy=here(text(case.key_policy or {}), number), BypassPolicyLockoutSafetyCheck=True
    )
    caller = root if case.caller == TABLE_ROOT else clients.of(caller_of(number))

    def call() -> Any:
        return caller.decrypt(CiphertextBlob=blob, EncryptionContext=context)

    if case.outcome in ALLOWING:
        assert call()["Plaintext"] == b"x"
        return
    principal = here(case.caller, number)
    assert refused(call) == (
        "AccessDeniedException",
        f"User: {principal} is not authorized to perform: kms:Decrypt on resource: {key} "
        + case.outcome.value.format(action="kms:Decrypt"),
    )


def _grant(root: Any, key: str, case: Case, number: int) -> None:
    for raw in case.grants:
        wanted = {name: value for name, value in raw.items() if name != "GrantId"}
        root.create_grant(KeyId=key, **json.loads(here(json.dumps(wanted), number)))


# --- the lesson ---------------------------------------------------------------------------------
def test_the_key_trusts_the_account_and_identity_policies_do_the_rest(clients: Clients) -> None:
    root, bob, carol = clients.root, clients.of("bob"), clients.of("carol")
    key = root.create_key()["KeyMetadata"]["KeyId"]
    (statement,) = json.loads(root.get_key_policy(KeyId=key)["Policy"])["Statement"]
    assert (statement["Principal"], statement["Action"]) == ({"AWS": ROOT}, "kms:*")
    blob = bob.encrypt(KeyId=key, Plaintext=b"a secret message")["CiphertextBlob"]
    assert bob.decrypt(CiphertextBlob=blob)["Plaintext"] == b"a secret message"
    assert refused(lambda: bob.disable_key(KeyId=key))[0] == "AccessDeniedException"
    assert refused(lambda: carol.decrypt(CiphertextBlob=blob))[0] == "AccessDeniedException"
    assert refused(lambda: carol.list_keys())[0] == "AccessDeniedException"


def test_a_key_whose_policy_trusts_no_one_is_used_by_no_one(clients: Clients) -> None:
    root, bob = clients.root, clients.of("bob")
    key = root.create_key()["KeyMetadata"]["Arn"]
    blob = root.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    no_one = text(policy(allow("kms:DescribeKey", USER + "carol")))
    lockout = refused(lambda: root.put_key_policy(KeyId=key, Policy=no_one))
    assert lockout[0] == "MalformedPolicyDocumentException"
    assert "will not allow you to update the key policy in the future" in lockout[1]
    root.put_key_policy(KeyId=key, Policy=no_one, BypassPolicyLockoutSafetyCheck=True)
    for call in (
        lambda: bob.decrypt(CiphertextBlob=blob),
        lambda: root.decrypt(CiphertextBlob=blob),
        lambda: root.put_key_policy(KeyId=key, Policy=no_one, BypassPolicyLockoutSafetyCheck=True),
        lambda: root.schedule_key_deletion(KeyId=key),
        lambda: root.get_key_policy(KeyId=key),
        lambda: root.list_grants(KeyId=key),
        lambda: root.create_alias(AliasName="alias/no-one", TargetKeyId=key),
    ):
        assert refused(call)[0] == "AccessDeniedException"
    assert clients.of("carol").describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key


def test_permission_is_asked_before_a_state_shows(clients: Clients) -> None:
    root, carol = clients.root, clients.of("carol")
    key = root.create_key()["KeyMetadata"]["Arn"]
    root.disable_key(KeyId=key)
    assert refused(lambda: carol.encrypt(KeyId=key, Plaintext=b"x"))[0] == "AccessDeniedException"
    assert refused(lambda: root.encrypt(KeyId=key, Plaintext=b"x"))[0] == "DisabledException"


def test_a_managed_key_is_seen_and_not_used_or_managed(clients: Clients) -> None:
    with Keystore.open(clients.served.home.path, via="init") as keystore:
        managed = keystore.managed_key(US)
        blob = keystore.generate_data_key(managed.arn, {}).blob
    root = clients.root
    assert managed.arn in {key["KeyArn"] for key in root.list_keys()["Keys"]}
    key = managed.arn
    assert root.describe_key(KeyId="alias/aws/kmsfs")["KeyMetadata"]["KeyManager"] == "AWS"
    assert "kms:ViaService" in root.get_key_policy(KeyId=key)["Policy"]
    assert root.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 1095
    for call in (
        lambda: root.decrypt(CiphertextBlob=blob),
        lambda: root.encrypt(KeyId="alias/aws/kmsfs", Plaintext=b"x"),
        lambda: root.disable_key(KeyId=key),
        lambda: root.disable_key_rotation(KeyId=key),
        lambda: root.schedule_key_deletion(KeyId=key),
        lambda: root.put_key_policy(KeyId=key, Policy=text(policy(allow(principal=ROOT)))),
        lambda: root.create_grant(KeyId=key, GranteePrincipal=ROOT, Operations=["Decrypt"]),
    ):
        assert refused(call)[0] == "AccessDeniedException"


# --- policies -----------------------------------------------------------------------------------
def test_a_key_is_made_with_its_policy(clients: Clients) -> None:
    root, bob = clients.root, clients.of("bob")
    document = text(policy(allow(principal=ROOT), allow("kms:DisableKey", USER + "bob")))
    key = root.create_key(Policy=document)["KeyMetadata"]["KeyId"]
    assert root.get_key_policy(KeyId=key)["Policy"] == document
    bob.disable_key(KeyId=key)
    only_bob = text(policy(allow(principal=USER + "bob")))
    assert refused(lambda: root.create_key(Policy=only_bob))[0] == "MalformedPolicyDocumentException"
    made = root.create_key(Policy=only_bob, BypassPolicyLockoutSafetyCheck=True)["KeyMetadata"]["KeyId"]
    assert refused(lambda: root.disable_key(KeyId=made))[0] == "AccessDeniedException"


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        "not JSON",
        text(policy(allow(principal=ROOT, Condition={"StringNearly": {"kms:ViaService": "x"}}))),
        text(policy(allow(principal=[ROOT, USER + "nobody"]))),
    ],
)
def test_what_is_no_policy_is_refused(clients: Clients, document: str) -> None:
    root = clients.root
    key = root.create_key()["KeyMetadata"]["KeyId"]
    before = root.get_key_policy(KeyId=key)["Policy"]
    for call in (
        lambda: root.put_key_policy(KeyId=key, Policy=document),
        lambda: root.create_key(Policy=document, BypassPolicyLockoutSafetyCheck=True),
    ):
        assert refused(call)[0] == "MalformedPolicyDocumentException"
    assert root.get_key_policy(KeyId=key)["Policy"] == before


def test_the_only_policy_is_default(clients: Clients) -> None:
    root = clients.root
    key = root.create_key()["KeyMetadata"]["KeyId"]
    assert root.list_key_policies(KeyId=key)["PolicyNames"] == ["default"]
    unknown = refused(lambda: root.get_key_policy(KeyId=key, PolicyName="other"))
    assert unknown == ("NotFoundException", "No such policy exists")


# --- grants -------------------------------------------------------------------------------------
def test_the_life_of_a_grant(clients: Clients) -> None:
    root, carol = clients.root, clients.of("carol")
    key = root.create_key()["KeyMetadata"]["Arn"]
    made = root.create_grant(
        KeyId=key,
        GranteePrincipal=USER + "carol",
        RetiringPrincipal=USER + "bob",
        Operations=["Encrypt", "Decrypt", "CreateGrant"],
        Constraints={"EncryptionContextSubset": {"team": "blue"}},
    )
    context, tokens = {"team": "blue", "more": "x"}, [made["GrantToken"]]
    blob = carol.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context, GrantTokens=tokens)
    blob = blob["CiphertextBlob"]
    assert carol.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"] == b"x"
    denied = refused(lambda: carol.encrypt(KeyId=key, Plaintext=b"x"))
    assert denied[0] == "AccessDeniedException"
    (listed,) = root.list_grants(KeyId=key, GranteePrincipal=USER + "carol")["Grants"]
    assert listed["GrantId"] == made["GrantId"]
    assert root.list_grants(KeyId=key, GranteePrincipal=ROOT)["Grants"] == []
    (retirable,) = root.list_retirable_grants(RetiringPrincipal=USER + "bob")["Grants"]
    assert retirable == listed
    wider = refused(
        lambda: carol.create_grant(KeyId=key, GranteePrincipal=USER + "bob", Operations=["Decrypt"])
    )
    assert wider[0] == "AccessDeniedException"
    not_hers = refused(lambda: carol.retire_grant(KeyId=key, GrantId=made["GrantId"]))
    assert not_hers[0] == "AccessDeniedException"
    dry = refused(lambda: clients.of("bob").retire_grant(GrantToken=tokens[0], DryRun=True))
    assert dry[0] == "DryRunOperationException"
    clients.of("bob").retire_grant(GrantToken=tokens[0])
    gone = refused(lambda: carol.decrypt(CiphertextBlob=blob, EncryptionContext=context))
    assert gone[0] == "AccessDeniedException"
    stale = refused(lambda: root.encrypt(KeyId=key, Plaintext=b"x", GrantTokens=tokens))
    assert stale[0] == "InvalidGrantTokenException"


def test_a_grant_is_revoked(clients: Clients) -> None:
    root = clients.root
    key = root.create_key()["KeyMetadata"]["KeyId"]
    made = root.create_grant(KeyId=key, GranteePrincipal=USER + "carol", Operations=["DescribeKey"])
    clients.of("carol").describe_key(KeyId=key)
    dry = refused(lambda: root.revoke_grant(KeyId=key, GrantId=made["GrantId"], DryRun=True))
    assert dry[0] == "DryRunOperationException"
    root.revoke_grant(KeyId=key, GrantId=made["GrantId"])
    assert refused(lambda: clients.of("carol").describe_key(KeyId=key))[0] == "AccessDeniedException"
    again = refused(lambda: root.revoke_grant(KeyId=key, GrantId=made["GrantId"]))
    assert again[0] == "NotFoundException"
    malformed = refused(lambda: root.revoke_grant(KeyId=key, GrantId="aabbccdd"))
    assert malformed[0] == "InvalidGrantIdException"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"GranteePrincipal": USER + "nobody"}, "InvalidArnException"),
        ({"GranteePrincipal": "carol"}, "InvalidArnException"),
        ({"DryRun": True}, "DryRunOperationException"),
        ({"GrantTokens": ["QUFB"]}, "InvalidGrantTokenException"),
    ],
)
def test_grants_that_are_not_made(clients: Clients, more: dict[str, Any], code: str) -> None:
    root = clients.root
    key = root.create_key()["KeyMetadata"]["KeyId"]
    wanted = {"GranteePrincipal": USER + "carol", "Operations": ["Decrypt"], **more}
    assert refused(lambda: root.create_grant(KeyId=key, **wanted))[0] == code
    assert root.list_grants(KeyId=key)["Grants"] == []


def test_a_grant_stands_on_one_key(clients: Clients) -> None:
    root = clients.root
    key, other = (root.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    made = root.create_grant(KeyId=key, GranteePrincipal=USER + "carol", Operations=["Decrypt"])
    wrong = refused(lambda: root.revoke_grant(KeyId=other, GrantId=made["GrantId"]))
    assert wrong[0] == "NotFoundException"
    unknown = refused(lambda: root.retire_grant(KeyId=other, GrantId=made["GrantId"]))
    assert unknown[0] == "NotFoundException"
    assert root.list_grants(KeyId=other)["Grants"] == []


def test_who_lists_retirable_grants_is_told_by_the_principal_that_retires(clients: Clients) -> None:
    root, bob = clients.root, USER + "bob"
    lists = {"Effect": "Allow", "Action": "kms:ListRetirableGrants"}
    with Keystore.open(clients.served.home.path) as keystore:
        keystore.principals.put_policy("carol", text(policy({**lists, "Resource": bob})), policy="lists")
    carol = clients.of("carol")
    assert refused(lambda: carol.list_retirable_grants(RetiringPrincipal=ROOT)) == (
        "AccessDeniedException",
        f"User: {USER}carol is not authorized to perform: kms:ListRetirableGrants on resource: {ROOT} "
        "because no identity-based policy allows the kms:ListRetirableGrants action",
    )
    key = root.create_key()["KeyMetadata"]["Arn"]
    made = root.create_grant(
        KeyId=key, GranteePrincipal=ROOT, RetiringPrincipal=bob, Operations=["DescribeKey"]
    )
    listed = carol.list_retirable_grants(RetiringPrincipal=bob)["Grants"]
    assert [grant["GrantId"] for grant in listed] == [made["GrantId"]]
    dave = clients.of("dave")
    dave.list_retirable_grants(RetiringPrincipal=ROOT)
    assert refused(lambda: dave.list_retirable_grants(RetiringPrincipal=bob))[0] == "AccessDeniedException"

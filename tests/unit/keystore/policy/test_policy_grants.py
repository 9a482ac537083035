import pytest
from testkit.policy_cases import ACCOUNT, ALICE, BOB, KEY_ARN, ROOT, STRANGER, allow, deny, policy, text

from kmsfs.errors import InvalidArnError, InvalidRequestError, MalformedPolicyError
from kmsfs.keystore.policy.context import KeyFacts, merge, principal_context
from kmsfs.keystore.policy.document import PolicyKind, parse_policy
from kmsfs.keystore.policy.evaluate import Request
from kmsfs.keystore.policy.grants import Constraints, Grant, check_grant
from kmsfs.keystore.policy.lockout import check_lockout
from kmsfs.keystore.policy.principals import Principal


def grant(*operations: str, grantee: str = ALICE, constraints: Constraints = Constraints()) -> Grant:  # noqa: B008
    return Grant("g-1", grantee, frozenset(operations), constraints)


@pytest.mark.parametrize(
    ("parent", "child", "allowed"),
    [
        (grant("Decrypt"), grant("Decrypt"), False),
        (grant("CreateGrant", "Decrypt"), grant("Decrypt"), True),
        (grant("CreateGrant", "Decrypt"), grant("CreateGrant", "Decrypt"), True),
        (grant("CreateGrant", "Decrypt"), grant("Encrypt"), False),
        (grant("CreateGrant", "Decrypt"), grant("Decrypt", constraints=Constraints(subset={"a": "1"})), True),
    ],
)
def test_a_grant_is_not_widened(parent: Grant, child: Grant, allowed: bool) -> None:
    assert parent.may_create(child) is allowed


@pytest.mark.parametrize(
    ("parent", "child", "narrows"),
    [
        (Constraints(), Constraints(), True),
        (Constraints(), Constraints(equals={"a": "1"}), True),
        (Constraints(subset={"a": "1"}), Constraints(), False),
        (Constraints(subset={"a": "1"}), Constraints(subset={"a": "1"}), True),
        (Constraints(subset={"a": "1"}), Constraints(subset={"A": "1", "b": "2"}), True),
        (Constraints(subset={"a": "1"}), Constraints(subset={"a": "2"}), False),
        (Constraints(subset={"a": "1"}), Constraints(equals={"a": "1", "b": "2"}), True),
        (Constraints(subset={"a": "1"}), Constraints(equals={"b": "2"}), False),
        (Constraints(equals={"a": "1"}), Constraints(subset={"a": "1"}), False),
        (Constraints(equals={"a": "1"}), Constraints(equals={"a": "1"}), True),
        (Constraints(equals={"a": "1"}), Constraints(equals={"a": "1", "b": "2"}), False),
        (Constraints({"a": "1"}, {"b": "2"}), Constraints(equals={"a": "1"}), False),
        (Constraints({"a": "1"}, {"a": "1"}), Constraints(equals={"a": "1"}), True),
    ],
)
def test_constraints_narrow(parent: Constraints, child: Constraints, narrows: bool) -> None:
    assert child.narrows(parent) is narrows


@pytest.mark.parametrize(
    ("made", "caller", "allowed"),
    [
        (Grant("g", ALICE, frozenset({"Decrypt"}), retiring_principal=BOB), BOB, True),
        (Grant("g", ALICE, frozenset({"Decrypt"}), retiring_principal=ROOT), BOB, False),
        (Grant("g", ALICE, frozenset({"Decrypt"}), retiring_principal=BOB), ALICE, False),
        (Grant("g", ALICE, frozenset({"Decrypt", "RetireGrant"})), ALICE, True),
        (Grant("g", ALICE, frozenset({"Decrypt", "RetireGrant"})), BOB, False),
    ],
)
def test_who_retires(made: Grant, caller: str, allowed: bool) -> None:
    assert made.may_be_retired_by(Principal(caller)) is allowed


@pytest.mark.parametrize(
    "made",
    [
        grant(),
        grant("DisableKey"),
        grant("Decrypt", constraints=Constraints(equals={"a": "1", "A": "1"})),
        grant("Decrypt", constraints=Constraints(equals={str(number): "1" for number in range(9)})),
        grant("Decrypt", constraints=Constraints(subset={"a": "v" * 385})),
        grant("GenerateMac", constraints=Constraints(subset={"a": "1"})),
        grant("Decrypt", "VerifyMac", constraints=Constraints(equals={"a": "1"})),
    ],
)
def test_bad_grant_is_refused(made: Grant) -> None:
    with pytest.raises(InvalidRequestError):
        check_grant(made)


@pytest.mark.parametrize(
    ("operation", "allowed"),
    [("GenerateMac", False), ("VerifyMac", False), ("DescribeKey", True), ("Decrypt", False)],
)
def test_a_constraint_that_nothing_can_satisfy_lets_nothing_pass(operation: str, allowed: bool) -> None:
    bound = grant(operation, constraints=Constraints(subset={"team": "blue"}))
    free = grant(operation, constraints=Constraints(subset={}))
    assert bound.allows(Principal(ALICE), f"kms:{operation}", {}) is allowed
    assert free.allows(Principal(ALICE), f"kms:{operation}", {})


@pytest.mark.parametrize(
    "made",
    [
        grant("Decrypt", grantee="alice"),
        Grant("g", ALICE, frozenset({"Decrypt"}), retiring_principal="*"),
    ],
)
def test_grant_to_what_is_no_principal_is_refused(made: Grant) -> None:
    with pytest.raises(InvalidArnError):
        check_grant(made)


def test_good_grant_is_accepted() -> None:
    check_grant(grant("Decrypt", constraints=Constraints(subset={"a": "1"})))
    managing = ("CreateGrant", "DescribeKey", "RetireGrant")
    check_grant(grant("Encrypt", *managing, constraints=Constraints(equals={"a": "1"})))
    check_grant(grant("GenerateMac", constraints=Constraints(subset={})))


LOCKS_OUT = [
    (ALICE, policy(allow(principal=BOB))),
    (ROOT, policy(allow(principal=ALICE))),
    (ROOT, policy(allow(principal=ROOT), deny("kms:PutKeyPolicy", "*"))),
    (ALICE, policy(allow(["kms:Encrypt", "kms:Decrypt"], ALICE))),
    (ALICE, policy(allow(principal=ROOT))),
    (STRANGER, policy(allow(principal=STRANGER))),
]
KEEPS = [
    (ROOT, policy(allow(principal=ROOT))),
    (ALICE, policy(allow("kms:Put*", ALICE))),
    (ALICE, policy(allow(principal="*"))),
]


def put_by(caller: str) -> Request:
    principal = Principal(caller)
    context = merge(principal_context(principal), KeyFacts(KEY_ARN, ACCOUNT).context())
    return Request(principal, "kms:PutKeyPolicy", KEY_ARN, ACCOUNT, context)


@pytest.mark.parametrize(("caller", "document"), LOCKS_OUT)
def test_lock_out_is_refused(caller: str, document: dict[str, object]) -> None:
    with pytest.raises(MalformedPolicyError, match="will not allow you to update"):
        check_lockout(put_by(caller), parse_policy(text(document), PolicyKind.KEY))


@pytest.mark.parametrize(("caller", "document"), KEEPS)
def test_policy_that_keeps_its_author_is_accepted(caller: str, document: dict[str, object]) -> None:
    check_lockout(put_by(caller), parse_policy(text(document), PolicyKind.KEY))


def test_account_trust_and_identity_policy_keep_a_user() -> None:
    identity = parse_policy(text(policy(allow("kms:*"))), PolicyKind.IDENTITY)
    check_lockout(
        put_by(ALICE), parse_policy(text(policy(allow(principal=ROOT))), PolicyKind.KEY), [identity]
    )

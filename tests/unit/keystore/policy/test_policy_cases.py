import pytest
from testkit.policy_cases import ACCOUNT, CASES, KEY_ARN, Case, Json, text

from kmsfs.errors import AccessDeniedError
from kmsfs.keystore.policy.context import KeyFacts, encryption_context, merge, parameter, principal_context
from kmsfs.keystore.policy.document import Policy, PolicyKind, parse_policy
from kmsfs.keystore.policy.evaluate import Outcome, Request, decide, require, takes_key_policy
from kmsfs.keystore.policy.grants import Constraints, Grant
from kmsfs.keystore.policy.principals import Principal


def parsed_grant(raw: Json) -> Grant:
    constraints = raw.get("Constraints", {})
    return Grant(
        grant_id=raw["GrantId"],
        grantee=raw["GranteePrincipal"],
        operations=frozenset(raw["Operations"]),
        constraints=Constraints(
            equals=constraints.get("EncryptionContextEquals"),
            subset=constraints.get("EncryptionContextSubset"),
        ),
    )


def request_of(case: Case) -> Request:
    principal = Principal(case.caller)
    facts = KeyFacts(KEY_ARN, ACCOUNT, tags=case.tags, aliases=case.aliases)
    parameters = (
        parameter(key, *(value if isinstance(value, list) else [value]))
        for key, value in case.parameters.items()
    )
    return Request(
        principal=principal,
        action=case.action,
        resource=case.resource,
        account=ACCOUNT,
        context=merge(
            principal_context(principal),
            facts.context() if takes_key_policy(case.action) else {},
            encryption_context(case.encryption_context),
            *parameters,
        ),
        encryption_context=case.encryption_context,
    )


def policies_of(case: Case) -> tuple[Policy | None, list[Policy], list[Grant]]:
    key_policy = parse_policy(text(case.key_policy), PolicyKind.KEY) if case.key_policy else None
    identity = [parse_policy(text(policy), PolicyKind.IDENTITY) for policy in case.identity]
    return key_policy, identity, [parsed_grant(raw) for raw in case.grants]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outcome(case: Case) -> None:
    key_policy, identity, grants = policies_of(case)
    decision = decide(request_of(case), key_policy=key_policy, identity_policies=identity, grants=grants)
    assert decision.outcome is case.outcome


@pytest.mark.parametrize("case", CASES, ids=str)
def test_require_raises_what_decide_refuses(case: Case) -> None:
    key_policy, identity, grants = policies_of(case)
    request = request_of(case)
    if decide(request, key_policy=key_policy, identity_policies=identity, grants=grants).allowed:
        require(request, key_policy=key_policy, identity_policies=identity, grants=grants)
    else:
        with pytest.raises(AccessDeniedError) as refusal:
            require(request, key_policy=key_policy, identity_policies=identity, grants=grants)
        assert str(refusal.value).startswith(
            f"User: {case.caller} is not authorized to perform: {case.action} on"
        )


def test_the_table_is_a_table() -> None:
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.outcome for case in CASES} == set(Outcome)


def test_a_deny_added_to_any_allowed_case_refuses_it() -> None:
    denial = parse_policy(
        text({"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}),
        PolicyKind.IDENTITY,
    )
    for case in CASES:
        key_policy, identity, grants = policies_of(case)
        decision = decide(
            request_of(case), key_policy=key_policy, identity_policies=[*identity, denial], grants=grants
        )
        assert not decision.allowed

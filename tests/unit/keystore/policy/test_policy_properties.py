"""Laws of the evaluator and of its wildcards, on generated input."""

import json
import re
from contextlib import suppress
from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testkit.policy_cases import ACCOUNT, ALICE, BOB, KEY_ARN, ROOT, STRANGER, Json, allow, deny, policy, text

from kmsfs.errors import KmsfsError
from kmsfs.keystore.policy.actions import KMS_ACTIONS
from kmsfs.keystore.policy.arns import compile_arn
from kmsfs.keystore.policy.context import KeyFacts, encryption_context, merge, principal_context
from kmsfs.keystore.policy.document import PolicyKind, parse_policy
from kmsfs.keystore.policy.evaluate import Request, decide
from kmsfs.keystore.policy.patterns import Literal, Variable, Wild, compile_glob
from kmsfs.keystore.policy.principals import Principal

LETTERS = st.text("ab:.", max_size=8)
PATTERNS = st.text("ab:.*?", max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=8,
)


@given(PATTERNS, LETTERS)
def test_wildcards_agree_with_a_backtracking_matcher(pattern: str, value: str) -> None:
    assert compile_glob((Wild(pattern),))(value) == bool(re.match(translate(pattern), value))


@given(st.text(max_size=8))
def test_star_matches_everything(value: str) -> None:
    assert compile_glob((Wild("*"),))(value)


@given(st.text("a*?$\\\n[", max_size=8), st.text("a*?$\\\n[", max_size=8))
def test_a_literal_matches_itself_alone(text: str, value: str) -> None:
    assert compile_glob((Literal(text), Wild("")))(value) == (value == text)


def test_variables_are_resolved_before_they_are_compiled() -> None:
    with pytest.raises(TypeError):
        compile_glob((Variable("aws:username", None),))


def test_many_stars_do_not_stall() -> None:
    assert not compile_glob((Wild("*a" * 500 + "*b"),))("a" * 5_000)


@given(st.lists(st.text("ab/", max_size=4), min_size=6, max_size=6))
def test_an_arn_matches_itself(parts: list[str]) -> None:
    arn = ":".join(parts)
    assert compile_arn((Wild(arn),))(arn)
    assert compile_arn((Wild("*:*:*:*:*:*"),))(arn)


@given(st.sampled_from(list(PolicyKind)), JSON)
def test_any_json_is_parsed_or_refused(kind: PolicyKind, document: object) -> None:
    with suppress(KmsfsError):
        parse_policy(json.dumps(document), kind)


def mutated(document: Json) -> st.SearchStrategy[str]:
    source = text(document)
    edit = st.tuples(st.integers(0, len(source)), st.integers(0, 6), st.text('{}[]",:*?$ak', max_size=4))
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _edited(source, edits))


def _edited(source: str, edits: list[tuple[int, int, str]]) -> str:
    for position, length, replacement in edits:
        source = source[:position] + replacement + source[position + length :]
    return source


WHOLE = policy(
    allow(
        ["kms:Decrypt", "kms:Generate*"],
        [ROOT, ALICE],
        Sid="one",
        Condition={
            "StringLike": {"kms:EncryptionContext:a": "${aws:username}*"},
            "Null": {"kms:ViaService": "true"},
            "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a", "b"]},
        },
    )
)


@given(mutated(WHOLE))
def test_a_damaged_policy_is_parsed_or_refused(document: str) -> None:
    with suppress(KmsfsError):
        parse_policy(document, PolicyKind.KEY)


ACTIONS = st.sampled_from(["kms:Decrypt", "kms:Encrypt", "kms:*", "kms:Generate*"])
PRINCIPALS = st.sampled_from([ROOT, ALICE, BOB, STRANGER, "*"])
CONDITIONS = st.sampled_from(
    [
        {},
        {"StringEquals": {"kms:EncryptionContext:a": "1"}},
        {"StringNotLike": {"kms:EncryptionContext:a": "1*"}},
        {"Null": {"kms:EncryptionContextKeys": "true"}},
        {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["a"]}},
        {"ArnLike": {"aws:PrincipalArn": ALICE}},
    ]
)
STATEMENTS = st.lists(
    st.builds(
        lambda make, action, principal, condition: make(action, principal, Condition=condition),
        st.sampled_from([allow, deny]),
        ACTIONS,
        PRINCIPALS,
        CONDITIONS,
    ),
    min_size=1,
    max_size=4,
)
CONTEXTS = st.dictionaries(st.sampled_from("aAb"), st.sampled_from(["1", "12", "2"]), max_size=2)
CALLERS = st.sampled_from([ROOT, ALICE, BOB, STRANGER])


def request(caller: str, action: str, pairs: dict[str, str]) -> Request:
    principal = Principal(caller)
    context = merge(
        principal_context(principal), KeyFacts(KEY_ARN, ACCOUNT).context(), encryption_context(pairs)
    )
    return Request(principal, action, KEY_ARN, ACCOUNT, context, pairs)


@given(STATEMENTS, CALLERS, st.sampled_from(sorted(KMS_ACTIONS)), CONTEXTS, st.randoms())
def test_order_of_statements_does_not_matter(
    statements: list[Json], caller: str, action: str, pairs: dict[str, str], random: object
) -> None:
    shuffled = sorted(statements, key=lambda _: random.random())  # type: ignore[attr-defined]
    asked = request(caller, action, pairs)
    first, second = (
        decide(asked, key_policy=parse_policy(text(policy(*order)), PolicyKind.KEY))
        for order in (statements, shuffled)
    )
    assert first.outcome is second.outcome


@given(
    STATEMENTS,
    st.builds(deny, ACTIONS, PRINCIPALS),
    CALLERS,
    st.sampled_from(["kms:Decrypt", "kms:Encrypt"]),
    CONTEXTS,
)
def test_a_deny_more_never_allows_more(
    statements: list[Json], denial: Json, caller: str, action: str, pairs: dict[str, str]
) -> None:
    asked = request(caller, action, pairs)
    before = decide(asked, key_policy=parse_policy(text(policy(*statements)), PolicyKind.KEY))
    after = decide(asked, key_policy=parse_policy(text(policy(*statements, denial)), PolicyKind.KEY))
    assert before.allowed or not after.allowed


@given(STATEMENTS, CALLERS, CONTEXTS)
def test_without_an_allow_nothing_is_allowed(
    statements: list[Json], caller: str, pairs: dict[str, str]
) -> None:
    denials = [{**statement, "Effect": "Deny"} for statement in statements]
    key_policy = parse_policy(text(policy(*denials)), PolicyKind.KEY)
    assert not decide(request(caller, "kms:Decrypt", pairs), key_policy=key_policy).allowed

import json

import pytest
from testkit.policy_cases import ACCOUNT, ALICE, ROOT, Json, allow, deny, policy, text

from kmsfs.errors import LimitExceededError, MalformedPolicyError
from kmsfs.keystore.policy.actions import ACCOUNT_ACTIONS, CONTEXT_ACTIONS, GRANT_OPERATIONS, KMS_ACTIONS
from kmsfs.keystore.policy.document import (
    MAX_IDENTITY_POLICY_BYTES,
    MAX_KEY_POLICY_BYTES,
    PolicyKind,
    default_key_policy,
    parse_policy,
)


def with_condition(condition: object) -> str:
    return text(policy(allow(principal=ROOT, Condition=condition)))


def statement(**changes: object) -> str:
    whole: Json = {
        "Effect": "Allow",
        "Principal": {"AWS": ROOT},
        "Action": "kms:*",
        "Resource": "*",
        **changes,
    }
    return text(policy({name: value for name, value in whole.items() if value is not None}))


MALFORMED_KEY_POLICIES = {
    "not json": "{",
    "empty": "",
    "a list": "[]",
    "a string": '"kms:*"',
    "nan": '{"Version": NaN}',
    "nested too deeply": "[" * 20_000,
    "unknown element": text({**policy(allow(principal=ROOT)), "Comment": "x"}),
    "unknown statement element": statement(Principals="*"),
    "unknown version": text({**policy(allow(principal=ROOT)), "Version": "2012-10-18"}),
    "version is no string": text({**policy(allow(principal=ROOT)), "Version": 1}),
    "id is no string": text({**policy(allow(principal=ROOT)), "Id": 1}),
    "no statement": text({"Version": "2012-10-17"}),
    "empty statement list": text(policy()),
    "statement is no object": text(policy("kms:*")),  # type: ignore[arg-type]
    "element twice": '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Effect":"Deny","Principal":"*",'
    '"Action":"*","Resource":"*"}}',
    "sid twice": text(policy(allow(principal=ROOT, Sid="a"), allow(principal=ALICE, Sid="a"))),
    "sid is no string": statement(Sid=1),
    "no effect": statement(Effect=None),
    "effect in lower case": statement(Effect="allow"),
    "no principal": statement(Principal=None),
    "both principals": statement(Effect="Deny", NotPrincipal={"AWS": ROOT}),
    "not principal with allow": statement(Principal=None, NotPrincipal={"AWS": ROOT}),
    "not principal of everyone": statement(Effect="Deny", Principal=None, NotPrincipal="*"),
    "principal is empty": statement(Principal={}),
    "principal list is empty": statement(Principal={"AWS": []}),
    "principal is another string": statement(Principal=ROOT),
    "principal kind": statement(Principal={"CanonicalUser": "x"}),
    "principal is a number": statement(Principal={"AWS": 111122223333}),
    "principal with a wildcard": statement(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"}),
    "principal of another service": statement(Principal={"AWS": f"arn:aws:s3::{ACCOUNT}:root"}),
    "principal account too short": statement(Principal={"AWS": "11112222333"}),
    "principal account in other digits": statement(Principal={"AWS": "\u0661" * 12}),
    "service without a dot": statement(Principal={"Service": "s3"}),
    "no action": statement(Action=None),
    "both actions": statement(NotAction="kms:Decrypt"),
    "action list is empty": statement(Action=[]),
    "action is empty": statement(Action=""),
    "action is a number": statement(Action=[1]),
    "action is misspelt": statement(Action="kms:Decript"),
    "action star matches nothing": statement(Action="kms:Decript*"),
    "action without service": statement(Action="Decrypt"),
    "action of another service": statement(Action="s3:GetObject"),
    "no resource": statement(Resource=None),
    "resource is no arn": statement(Resource="alias/app"),
    "resource arn too short": statement(Resource="arn:aws:kms:*"),
    "resource list is empty": statement(Resource=[]),
    "unfinished variable": statement(Resource="arn:aws:kms:*:*:alias/${aws:username"),
    "malformed variable": statement(Resource="arn:aws:kms:*:*:alias/${username}"),
    "unquoted default": statement(Resource="arn:aws:kms:*:*:alias/${aws:username, x}"),
    "unknown variable in a resource": statement(Resource="arn:aws:kms:*:*:alias/${aws:usrname}"),
    "unknown variable in a value": with_condition({"StringNotEquals": {"kms:ViaService": "${aws:usrname}"}}),
    "condition is a list": with_condition([]),
    "unknown operator": with_condition({"StringMatches": {"kms:ViaService": "x"}}),
    "operator in lower case": with_condition({"stringequals": {"kms:ViaService": "x"}}),
    "operator is empty": with_condition({"": {"kms:ViaService": "x"}}),
    "binary operator": with_condition({"BinaryEquals": {"kms:ViaService": "eA=="}}),
    "operator without keys": with_condition({"StringEquals": {}}),
    "operator is no object": with_condition({"StringEquals": "kms:ViaService"}),
    "unknown set operator": with_condition({"ForSomeValues:StringEquals": {"kms:ViaService": "x"}}),
    "set operator alone": with_condition({"ForAnyValue:": {"kms:ViaService": "x"}}),
    "set operator is empty": with_condition({":StringEquals": {"kms:ViaService": "x"}}),
    "set operator of null": with_condition({"ForAnyValue:Null": {"kms:ViaService": "true"}}),
    "null if exists": with_condition({"NullIfExists": {"kms:ViaService": "true"}}),
    "null of a word": with_condition({"Null": {"kms:ViaService": "yes"}}),
    "null of two": with_condition({"Null": {"kms:ViaService": ["true", "false"]}}),
    "unknown condition key": with_condition({"StringNotEquals": {"kms:ViaServce": "x"}}),
    "condition key of another service": with_condition({"StringEquals": {"s3:prefix": "x"}}),
    "encryption context without a key": with_condition({"StringEquals": {"kms:EncryptionContext:": "x"}}),
    "no values": with_condition({"StringEquals": {"kms:ViaService": []}}),
    "value is an object": with_condition({"StringEquals": {"kms:ViaService": {}}}),
    "value is null": with_condition({"StringEquals": {"kms:ViaService": None}}),
    "bool of a word": with_condition({"Bool": {"kms:MultiRegion": "yes"}}),
    "number of a word": with_condition({"NumericEquals": {"kms:RotationPeriodInDays": "many"}}),
    "number is infinite": with_condition({"NumericEquals": {"kms:RotationPeriodInDays": "inf"}}),
    "date of a year": with_condition({"DateLessThan": {"aws:CurrentTime": "2030"}}),
    "date without hyphens": with_condition({"DateLessThan": {"aws:CurrentTime": "20300101"}}),
    "date of a word": with_condition({"DateLessThan": {"aws:CurrentTime": "tomorrow"}}),
    "address of a word": with_condition({"IpAddress": {"aws:SourceIp": "localhost"}}),
    "arn of a word": with_condition({"ArnLike": {"aws:PrincipalArn": "alice"}}),
}


@pytest.mark.parametrize("document", MALFORMED_KEY_POLICIES.values(), ids=MALFORMED_KEY_POLICIES)
def test_malformed_key_policy_is_refused(document: str) -> None:
    with pytest.raises(MalformedPolicyError) as refusal:
        parse_policy(document, PolicyKind.KEY)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "document",
    [text(policy(allow(principal=ROOT))), text(policy(allow("kms:Decript"))), text(policy(allow(":*")))],
)
def test_malformed_identity_policy_is_refused(document: str) -> None:
    with pytest.raises(MalformedPolicyError):
        parse_policy(document, PolicyKind.IDENTITY)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [(PolicyKind.KEY, MAX_KEY_POLICY_BYTES), (PolicyKind.IDENTITY, MAX_IDENTITY_POLICY_BYTES)],
)
def test_size_limit_at_its_edge(kind: PolicyKind, limit: int) -> None:
    document = text(policy(allow(principal=ROOT if kind is PolicyKind.KEY else None)))
    parse_policy(document.ljust(limit), kind)
    with pytest.raises(LimitExceededError):
        parse_policy(document.ljust(limit + 1), kind)


def test_default_key_policy_trusts_the_account() -> None:
    parsed = parse_policy(default_key_policy(ACCOUNT), PolicyKind.KEY)
    assert parsed.named_principals == {ROOT}
    assert parsed.statements[0].actions == KMS_ACTIONS


def test_console_default_policy_is_accepted() -> None:
    verbs = (
        "Create* Describe* Enable* List* Put* Update* Revoke* Disable* Get* Delete* TagResource UntagResource"
    )
    administrators = [f"kms:{verb}" for verb in (*verbs.split(), "ScheduleKeyDeletion", "CancelKeyDeletion")]
    attach = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    document = policy(
        allow("kms:*", ROOT, Sid="Enable IAM User Permissions"),
        allow(administrators, ALICE, Sid="Allow access for Key Administrators"),
        allow(
            ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"],
            ALICE,
            Sid="Allow attachment",
            Condition=attach,
        ),
    )
    parsed = parse_policy(text({**document, "Id": "key-consolepolicy-3"}), PolicyKind.KEY)
    assert parsed.named_principals == {ROOT, ALICE}


def test_one_statement_needs_no_list() -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": deny(principal="*")})
    assert len(parse_policy(document, PolicyKind.KEY).statements) == 1


def test_tables_of_actions_agree() -> None:
    assert ACCOUNT_ACTIONS < KMS_ACTIONS
    assert CONTEXT_ACTIONS < KMS_ACTIONS
    assert {f"kms:{name}" for name in GRANT_OPERATIONS} < KMS_ACTIONS

"""Who may do what, as a table: written from AWS's documentation of key policies, IAM and grants.

The evaluator runs all of it; the server's tests send some of the same rows over the wire.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from kmsfs.keystore.policy.evaluate import Outcome

ACCOUNT = "111122223333"
OTHER_ACCOUNT = "444455556666"
REGION = "us-east-1"
KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0987dcba-09fe-87dc-65ba-ab0987654321"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
BOB = f"arn:aws:iam::{ACCOUNT}:user/bob"
STRANGER = f"arn:aws:iam::{OTHER_ACCOUNT}:user/alice"
STRANGE_ROOT = f"arn:aws:iam::{OTHER_ACCOUNT}:root"

Json = dict[str, Any]


def policy(*statements: Json, version: str = "2012-10-17") -> Json:
    return {"Version": version, "Statement": list(statements)}


def allow(action: str | list[str] = "kms:*", principal: object = None, **more: object) -> Json:
    return _statement("Allow", action, principal, more)


def deny(action: str | list[str] = "kms:*", principal: object = None, **more: object) -> Json:
    return _statement("Deny", action, principal, more)


def _statement(effect: str, action: str | list[str], principal: object, more: Json) -> Json:
    statement: Json = {"Effect": effect, "Action": action, "Resource": "*", **more}
    if principal is not None:
        statement["Principal"] = principal if principal == "*" else {"AWS": principal}
    if "NotAction" in more:
        del statement["Action"]
    if "NotResource" in more:
        del statement["Resource"]
    return statement


def when(operator: str, key: str, values: object) -> Json:
    return {operator: {key: values}}


@dataclass(frozen=True)
class Case:
    name: str
    caller: str
    action: str
    key_policy: Json | None
    outcome: Outcome
    identity: tuple[Json, ...] = ()
    grants: tuple[Json, ...] = ()
    resource: str = KEY_ARN
    encryption_context: dict[str, str] = field(default_factory=dict)
    #: Further condition keys of the request, and the tags and aliases of the key.
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


KEY = Outcome.KEY_POLICY_ALLOWS
IDENTITY = Outcome.IDENTITY_POLICY_ALLOWS
AS_ROOT = Outcome.ROOT_ALLOWS
GRANT = Outcome.GRANT_ALLOWS
KEY_DENIES = Outcome.KEY_POLICY_DENIES
IDENTITY_DENIES = Outcome.IDENTITY_POLICY_DENIES
NOT_BY_KEY = Outcome.NO_KEY_POLICY_ALLOWS
NOT_BY_IDENTITY = Outcome.NO_IDENTITY_POLICY_ALLOWS

TRUSTS_ACCOUNT = policy(allow(principal=ROOT))
TRUSTS_ALICE = policy(allow(principal=ALICE))
TRUSTS_NO_ONE = policy(allow("kms:DescribeKey", f"arn:aws:iam::{ACCOUNT}:user/gone"))
USE = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
MAY_USE = policy(allow(USE))
MAY_DO_ALL = policy(allow("*"))


def grant(grantee: str, *operations: str, **more: object) -> Json:
    return {"GrantId": "g-1", "GranteePrincipal": grantee, "Operations": list(operations), **more}


def _trust() -> list[Case]:
    alice_decrypts = policy(allow("kms:Decrypt", ALICE))
    return [
        Case("root under the default policy", ROOT, "kms:Decrypt", TRUSTS_ACCOUNT, KEY),
        Case("user without identity policy", ALICE, "kms:Decrypt", TRUSTS_ACCOUNT, NOT_BY_IDENTITY),
        Case("user with identity policy", ALICE, "kms:Decrypt", TRUSTS_ACCOUNT, IDENTITY, (MAY_USE,)),
        Case(
            "identity policy lacks action",
            ALICE,
            "kms:DisableKey",
            TRUSTS_ACCOUNT,
            NOT_BY_IDENTITY,
            (MAY_USE,),
        ),
        Case(
            "account named by number",
            ALICE,
            "kms:Decrypt",
            policy(allow(principal=ACCOUNT)),
            IDENTITY,
            (MAY_USE,),
        ),
        Case("user named in key policy", ALICE, "kms:Decrypt", TRUSTS_ALICE, KEY),
        Case("another user named", BOB, "kms:Decrypt", TRUSTS_ALICE, NOT_BY_KEY),
        Case(
            "identity policy counts for nothing untrusted",
            BOB,
            "kms:Decrypt",
            TRUSTS_ALICE,
            NOT_BY_KEY,
            (MAY_DO_ALL,),
        ),
        Case("root is not named by its user", ROOT, "kms:Decrypt", TRUSTS_ALICE, NOT_BY_KEY),
        Case("policy trusts no one: root", ROOT, "kms:PutKeyPolicy", TRUSTS_NO_ONE, NOT_BY_KEY),
        Case(
            "policy trusts no one: administrator",
            ALICE,
            "kms:Decrypt",
            TRUSTS_NO_ONE,
            NOT_BY_KEY,
            (MAY_DO_ALL,),
        ),
        Case("everyone", BOB, "kms:Decrypt", policy(allow("kms:Decrypt", "*")), KEY),
        Case("everyone as AWS star", BOB, "kms:Decrypt", policy(allow("kms:Decrypt", ["*"])), KEY),
        Case("two users listed, second", BOB, "kms:Decrypt", policy(allow("kms:Decrypt", [ALICE, BOB])), KEY),
        Case("named user, other action", ALICE, "kms:Encrypt", alice_decrypts, NOT_BY_KEY),
        Case(
            "named for one, account for rest",
            ALICE,
            "kms:Encrypt",
            policy(allow("kms:Decrypt", ALICE), allow(principal=ROOT)),
            IDENTITY,
            (MAY_USE,),
        ),
        Case(
            "account trusted for one action only",
            ALICE,
            "kms:Encrypt",
            policy(allow("kms:Decrypt", ROOT)),
            NOT_BY_KEY,
            (MAY_USE,),
        ),
        Case(
            "service principal is no user",
            ALICE,
            "kms:Decrypt",
            policy(
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "s3.amazonaws.com"},
                    "Action": "kms:*",
                    "Resource": "*",
                }
            ),
            NOT_BY_KEY,
        ),
    ]


def _other_accounts() -> list[Case]:
    both = policy(allow(principal=[ROOT, STRANGE_ROOT]))
    return [
        Case("other account untrusted", STRANGER, "kms:Decrypt", TRUSTS_ACCOUNT, NOT_BY_KEY, (MAY_USE,)),
        Case("other account trusted, identity allows", STRANGER, "kms:Decrypt", both, IDENTITY, (MAY_USE,)),
        Case("other account trusted, identity silent", STRANGER, "kms:Decrypt", both, NOT_BY_IDENTITY),
        Case(
            "stranger named, identity silent",
            STRANGER,
            "kms:Decrypt",
            policy(allow(principal=STRANGER)),
            NOT_BY_IDENTITY,
        ),
        Case(
            "everyone means strangers only with their own policy",
            STRANGER,
            "kms:Decrypt",
            policy(allow(principal="*")),
            NOT_BY_IDENTITY,
        ),
        Case(
            "everyone limited to one account",
            STRANGER,
            "kms:Decrypt",
            policy(allow(principal="*", Condition=when("StringEquals", "kms:CallerAccount", ACCOUNT))),
            NOT_BY_KEY,
            (MAY_USE,),
        ),
        Case("root of other account", STRANGE_ROOT, "kms:Decrypt", both, AS_ROOT),
        Case(
            "same user name in other account", STRANGER, "kms:Decrypt", TRUSTS_ALICE, NOT_BY_KEY, (MAY_USE,)
        ),
    ]


def _denials() -> list[Case]:
    def open_but(statement: Json) -> Json:
        return policy(allow(principal=[ROOT, ALICE, BOB]), statement)

    def spares(*names: str) -> Json:
        excepted = {"NotPrincipal": {"AWS": list(names)}}
        return {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*", **excepted}

    return [
        Case(
            "key policy deny beats its allow",
            ALICE,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", ALICE)),
            KEY_DENIES,
        ),
        Case("deny names another", BOB, "kms:Decrypt", open_but(deny("kms:Decrypt", ALICE)), KEY),
        Case(
            "deny of the account reaches its users",
            ALICE,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", ROOT)),
            KEY_DENIES,
        ),
        Case(
            "deny of everyone reaches root",
            ROOT,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", "*")),
            KEY_DENIES,
        ),
        Case("deny of another action", ALICE, "kms:Decrypt", open_but(deny("kms:Encrypt", ALICE)), KEY),
        Case(
            "identity deny beats key policy allow",
            ALICE,
            "kms:Decrypt",
            TRUSTS_ALICE,
            IDENTITY_DENIES,
            (policy(deny("kms:Decrypt")),),
        ),
        Case(
            "identity deny beats identity allow",
            ALICE,
            "kms:Decrypt",
            TRUSTS_ACCOUNT,
            IDENTITY_DENIES,
            (MAY_USE, policy(deny("kms:Decrypt"))),
        ),
        Case(
            "identity deny beats a grant",
            ALICE,
            "kms:Decrypt",
            TRUSTS_ACCOUNT,
            IDENTITY_DENIES,
            (policy(deny("kms:*")),),
            (grant(ALICE, "Decrypt"),),
        ),
        Case(
            "key policy deny beats a grant",
            ALICE,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", ALICE)),
            KEY_DENIES,
            (),
            (grant(ALICE, "Decrypt"),),
        ),
        Case(
            "NotPrincipal denies the unlisted", BOB, "kms:Decrypt", open_but(spares(ALICE, ROOT)), KEY_DENIES
        ),
        Case(
            "NotPrincipal spares user listed with account",
            ALICE,
            "kms:Decrypt",
            open_but(spares(ALICE, ROOT)),
            KEY,
        ),
        Case(
            "NotPrincipal without the account denies",
            ALICE,
            "kms:Decrypt",
            open_but(spares(ALICE)),
            KEY_DENIES,
        ),
        Case(
            "NotPrincipal with the account alone denies users",
            ALICE,
            "kms:Decrypt",
            open_but(spares(ROOT)),
            KEY_DENIES,
        ),
        Case("NotPrincipal spares root", ROOT, "kms:Decrypt", open_but(spares(ROOT)), KEY),
        Case(
            "deny all but one by condition",
            BOB,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", "*", Condition=when("ArnNotEquals", "aws:PrincipalArn", ALICE))),
            KEY_DENIES,
        ),
        Case(
            "deny all but one by condition: the one",
            ALICE,
            "kms:Decrypt",
            open_but(deny("kms:Decrypt", "*", Condition=when("ArnNotEquals", "aws:PrincipalArn", ALICE))),
            KEY,
        ),
    ]


def _actions_and_resources() -> list[Case]:
    def by_identity(
        statement: Json, action: str, outcome: Outcome, resource: str = KEY_ARN, name: str = ""
    ) -> Case:
        return Case(name, ALICE, action, TRUSTS_ACCOUNT, outcome, (policy(statement),), resource=resource)

    wildcard_region = f"arn:aws:kms:*:{ACCOUNT}:key/*"
    no_deletion = allow(principal=ALICE, NotAction=["kms:ScheduleKeyDeletion", "kms:PutKeyPolicy"])
    return [
        by_identity(
            allow("kms:GenerateDataKey*"), "kms:GenerateDataKeyWithoutPlaintext", IDENTITY, name="action star"
        ),
        by_identity(allow("kms:?ncrypt"), "kms:Encrypt", IDENTITY, name="action question mark"),
        by_identity(
            allow("kms:GenerateDataKey"),
            "kms:GenerateDataKeyWithoutPlaintext",
            NOT_BY_IDENTITY,
            name="no prefix match",
        ),
        by_identity(allow("KMS:decrypt"), "kms:Decrypt", IDENTITY, name="action ignores case"),
        by_identity(
            allow("kms:ReEncrypt*"), "kms:ReEncryptTo", IDENTITY, name="ReEncrypt star covers ReEncryptTo"
        ),
        by_identity(allow("s3:*"), "kms:Decrypt", NOT_BY_IDENTITY, name="another service's actions"),
        by_identity(allow(["s3:GetObject", "kms:Decrypt"]), "kms:Decrypt", IDENTITY, name="mixed services"),
        by_identity(allow(Resource=KEY_ARN), "kms:Decrypt", IDENTITY, name="this key"),
        by_identity(allow(Resource=OTHER_KEY_ARN), "kms:Decrypt", NOT_BY_IDENTITY, name="other key"),
        by_identity(allow(Resource=[OTHER_KEY_ARN, KEY_ARN]), "kms:Decrypt", IDENTITY, name="key list"),
        by_identity(allow(Resource=wildcard_region), "kms:Decrypt", IDENTITY, name="any region"),
        by_identity(
            allow(Resource=f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/*"),
            "kms:Decrypt",
            NOT_BY_IDENTITY,
            name="other region",
        ),
        by_identity(
            allow(Resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/*"),
            "kms:Decrypt",
            NOT_BY_IDENTITY,
            name="alias resource does not cover its key",
        ),
        by_identity(
            allow(NotResource=OTHER_KEY_ARN), "kms:Decrypt", IDENTITY, name="NotResource of another key"
        ),
        by_identity(
            allow(NotResource=KEY_ARN), "kms:Decrypt", NOT_BY_IDENTITY, name="NotResource of this key"
        ),
        by_identity(
            allow(NotAction="kms:Decrypt"), "kms:Decrypt", NOT_BY_IDENTITY, name="identity NotAction names it"
        ),
        by_identity(
            allow(NotAction="iam:*"), "kms:Decrypt", IDENTITY, name="identity NotAction of another service"
        ),
        Case("NotAction allows the rest", ALICE, "kms:Encrypt", policy(no_deletion), KEY),
        Case("NotAction leaves out", ALICE, "kms:ScheduleKeyDeletion", policy(no_deletion), NOT_BY_KEY),
        Case(
            "key policy that names another key",
            ALICE,
            "kms:Decrypt",
            policy(allow(principal=ALICE, Resource=OTHER_KEY_ARN)),
            NOT_BY_KEY,
        ),
        Case(
            "key policy that names this key",
            ALICE,
            "kms:Decrypt",
            policy(allow(principal=ALICE, Resource=KEY_ARN)),
            KEY,
        ),
        Case(
            "own user name in the resource",
            ALICE,
            "kms:CreateAlias",
            None,
            IDENTITY,
            (
                policy(
                    allow("kms:CreateAlias", Resource=f"arn:aws:kms:*:{ACCOUNT}:alias/${{aws:username}}-*")
                ),
            ),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "variable is text in an old version",
            ALICE,
            "kms:CreateAlias",
            None,
            NOT_BY_IDENTITY,
            (
                policy(
                    allow("kms:CreateAlias", Resource=f"arn:aws:kms:*:{ACCOUNT}:alias/${{aws:username}}-*"),
                    version="2008-10-17",
                ),
            ),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "variable that is not there covers nothing",
            ALICE,
            "kms:CreateAlias",
            None,
            NOT_BY_IDENTITY,
            (policy(allow("kms:CreateAlias", Resource="arn:aws:kms:*:*:alias/${aws:PrincipalTag/team}")),),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "variable that makes no arn covers nothing",
            ALICE,
            "kms:CreateAlias",
            None,
            NOT_BY_IDENTITY,
            (policy(allow("kms:CreateAlias", Resource="arn:aws:${aws:username}")),),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "all but a variable that is not there does not allow",
            ALICE,
            "kms:CreateAlias",
            None,
            NOT_BY_IDENTITY,
            (policy(allow("kms:CreateAlias", NotResource="arn:aws:kms:*:*:alias/${aws:PrincipalTag/team}")),),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "all but a variable that is not there denies",
            ALICE,
            "kms:CreateAlias",
            None,
            IDENTITY_DENIES,
            (MAY_DO_ALL, policy(deny("*", NotResource="arn:aws:kms:*:*:alias/${aws:PrincipalTag/team}"))),
            resource=f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/alice-1",
        ),
        Case(
            "account action by identity policy",
            ALICE,
            "kms:CreateKey",
            None,
            IDENTITY,
            (policy(allow("kms:CreateKey")),),
            resource="*",
        ),
        Case(
            "account action needs the star",
            ALICE,
            "kms:CreateKey",
            None,
            NOT_BY_IDENTITY,
            (policy(allow("kms:CreateKey", Resource=wildcard_region)),),
            resource="*",
        ),
        Case("account action without policy", ALICE, "kms:ListKeys", None, NOT_BY_IDENTITY, resource="*"),
        Case("account action of root", ROOT, "kms:ListKeys", None, AS_ROOT, resource="*"),
        Case(
            "account action denied",
            ALICE,
            "kms:ListKeys",
            None,
            IDENTITY_DENIES,
            (MAY_DO_ALL, policy(deny("kms:List*"))),
            resource="*",
        ),
    ]


def _conditions() -> list[Case]:
    def on(name: str, condition: Json, outcome: Outcome, action: str = "kms:Decrypt", **more: Any) -> Case:
        statement = allow(principal=ALICE, Condition=condition)
        return Case(name, ALICE, action, policy(statement), outcome, **more)

    def denied_on(name: str, condition: Json, outcome: Outcome, **more: Any) -> Case:
        both = policy(allow(principal=ALICE), deny(principal=ALICE, Condition=condition))
        return Case(name, ALICE, "kms:Decrypt", both, outcome, **more)

    app = "kms:EncryptionContext:AppName"
    keys = "kms:EncryptionContextKeys"
    attested = "kms:RecipientAttestation:PCR0"
    excel = {"encryption_context": {"AppName": "ExcelApp"}}
    return [
        on("context value equals", when("StringEquals", app, "ExcelApp"), KEY, **excel),
        on("context value differs", when("StringEquals", app, "WordApp"), NOT_BY_KEY, **excel),
        on("context absent", when("StringEquals", app, "ExcelApp"), NOT_BY_KEY),
        on("context value of a list", when("StringEquals", app, ["WordApp", "ExcelApp"]), KEY, **excel),
        on("context value is case-sensitive", when("StringEquals", app, "excelapp"), NOT_BY_KEY, **excel),
        on(
            "context key ignores case",
            when("StringEquals", "kms:EncryptionContext:appname", "ExcelApp"),
            KEY,
            **excel,
        ),
        on("equals ignore case", when("StringEqualsIgnoreCase", app, "excelAPP"), KEY, **excel),
        on("not equals ignore case", when("StringNotEqualsIgnoreCase", app, "excelAPP"), NOT_BY_KEY, **excel),
        on("like", when("StringLike", app, "Excel*"), KEY, **excel),
        on("like needs a wildcard", when("StringLike", app, "Excel"), NOT_BY_KEY, **excel),
        on("equals knows no wildcard", when("StringEquals", app, "Excel*"), NOT_BY_KEY, **excel),
        on("not like", when("StringNotLike", app, "Excel*"), NOT_BY_KEY, **excel),
        on("not like holds when absent", when("StringNotLike", app, "Excel*"), KEY),
        on("not equals holds when absent", when("StringNotEquals", app, "x"), KEY),
        on("if exists holds when absent", when("StringEqualsIfExists", app, "ExcelApp"), KEY),
        on("if exists fails when other", when("StringEqualsIfExists", app, "WordApp"), NOT_BY_KEY, **excel),
        on("null true when absent", when("Null", app, "true"), KEY),
        on("null true when present", when("Null", app, "true"), NOT_BY_KEY, **excel),
        on("null false when present", when("Null", app, "false"), KEY, **excel),
        on("null false when absent", when("Null", app, False), NOT_BY_KEY),
        on(
            "two pairs, both needed",
            {"StringEquals": {app: "ExcelApp", "kms:EncryptionContext:FilePath": "/a"}},
            NOT_BY_KEY,
            **excel,
        ),
        on(
            "two pairs, both given",
            {"StringEquals": {app: "ExcelApp", "kms:EncryptionContext:FilePath": "/a"}},
            KEY,
            encryption_context={"AppName": "ExcelApp", "FilePath": "/a"},
        ),
        on(
            "two operators are joined by and",
            {"StringEquals": {app: "ExcelApp"}, "StringLike": {"kms:ViaService": "s3.*"}},
            NOT_BY_KEY,
            **excel,
        ),
        on(
            "for all values: within",
            when("ForAllValues:StringEquals", keys, ["AppName", "FilePath"]),
            KEY,
            **excel,
        ),
        on(
            "for all values: one beyond",
            when("ForAllValues:StringEquals", keys, ["AppName"]),
            NOT_BY_KEY,
            encryption_context={"AppName": "x", "Other": "y"},
        ),
        on("for all values holds without context", when("ForAllValues:StringEquals", keys, ["AppName"]), KEY),
        on(
            "for all values closed by null",
            {**when("ForAllValues:StringEquals", keys, ["AppName"]), **when("Null", keys, False)},
            NOT_BY_KEY,
        ),
        on(
            "context keys are case-sensitive",
            when("ForAllValues:StringEquals", keys, ["appname"]),
            NOT_BY_KEY,
            **excel,
        ),
        on(
            "for any value",
            when("ForAnyValue:StringEquals", keys, ["AppName"]),
            KEY,
            encryption_context={"AppName": "x", "Other": "y"},
        ),
        on(
            "for any value: none",
            when("ForAnyValue:StringEquals", keys, ["AppName"]),
            NOT_BY_KEY,
            encryption_context={"Other": "y"},
        ),
        on(
            "for any value is false without context",
            when("ForAnyValue:StringEquals", keys, ["AppName"]),
            NOT_BY_KEY,
        ),
        on(
            "for any value negated",
            when("ForAnyValue:StringNotEquals", keys, ["AppName"]),
            KEY,
            encryption_context={"AppName": "x", "Other": "y"},
        ),
        on(
            "for all values negated",
            when("ForAllValues:StringNotEquals", keys, ["AppName"]),
            NOT_BY_KEY,
            encryption_context={"AppName": "x", "Other": "y"},
        ),
        on(
            "request alias",
            when("StringEquals", "kms:RequestAlias", "alias/app"),
            KEY,
            parameters={"kms:RequestAlias": "alias/app"},
        ),
        on(
            "request alias, called by key id",
            when("StringLike", "kms:RequestAlias", "alias/*"),
            NOT_BY_KEY,
            aliases=("alias/app",),
        ),
        on(
            "resource aliases",
            when("ForAnyValue:StringLike", "kms:ResourceAliases", "alias/app*"),
            KEY,
            aliases=("alias/zzz", "alias/app1"),
        ),
        on("via service", when("StringEquals", "kms:ViaService", f"s3.{REGION}.amazonaws.com"), NOT_BY_KEY),
        on("key spec", when("StringEquals", "kms:KeySpec", "SYMMETRIC_DEFAULT"), KEY),
        on("key origin", when("StringEquals", "kms:KeyOrigin", "EXTERNAL"), NOT_BY_KEY),
        on("multi region is false", when("Bool", "kms:MultiRegion", "false"), KEY),
        on(
            "resource tag",
            when("StringEquals", "aws:ResourceTag/Project", "Alpha"),
            KEY,
            tags={"Project": "Alpha"},
        ),
        on(
            "resource tag of another value",
            when("StringEquals", "aws:ResourceTag/Project", "Alpha"),
            NOT_BY_KEY,
            tags={"Project": "Beta"},
        ),
        on(
            "resource tag key ignores case",
            when("StringEquals", "aws:ResourceTag/project", "Alpha"),
            KEY,
            tags={"Project": "Alpha"},
        ),
        on("principal arn like", when("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:user/a*"), KEY),
        on(
            "arn star stays in its part",
            when("ArnLike", "aws:PrincipalArn", "arn:aws:*:user/alice:x:y"),
            NOT_BY_KEY,
        ),
        on(
            "arn equals takes wildcards",
            when("ArnEquals", "aws:PrincipalArn", "arn:*:iam::*:user/alice"),
            KEY,
        ),
        on(
            "arn not like",
            when("ArnNotLike", "aws:PrincipalArn", f"arn:aws:iam::{ACCOUNT}:user/a*"),
            NOT_BY_KEY,
        ),
        on(
            "grant is for an aws resource",
            when("Bool", "kms:GrantIsForAWSResource", True),
            NOT_BY_KEY,
            action="kms:CreateGrant",
            parameters={"kms:GrantIsForAWSResource": False},
        ),
        on(
            "grant operations within",
            when("ForAllValues:StringEquals", "kms:GrantOperations", ["Encrypt", "Decrypt"]),
            KEY,
            action="kms:CreateGrant",
            parameters={"kms:GrantOperations": ["Decrypt"]},
        ),
        on(
            "grant operations beyond",
            when("ForAllValues:StringEquals", "kms:GrantOperations", ["Encrypt"]),
            NOT_BY_KEY,
            action="kms:CreateGrant",
            parameters={"kms:GrantOperations": ["Encrypt", "Decrypt"]},
        ),
        on(
            "bypass of the lock-out check",
            when("BoolIfExists", "kms:BypassPolicyLockoutSafetyCheck", "false"),
            NOT_BY_KEY,
            action="kms:PutKeyPolicy",
            parameters={"kms:BypassPolicyLockoutSafetyCheck": True},
        ),
        on(
            "deletion window too short",
            when("NumericGreaterThanEquals", "kms:ScheduleKeyDeletionPendingWindowInDays", "30"),
            NOT_BY_KEY,
            action="kms:ScheduleKeyDeletion",
            parameters={"kms:ScheduleKeyDeletionPendingWindowInDays": 7},
        ),
        on(
            "deletion window long enough",
            when("NumericGreaterThanEquals", "kms:ScheduleKeyDeletionPendingWindowInDays", 30),
            KEY,
            action="kms:ScheduleKeyDeletion",
            parameters={"kms:ScheduleKeyDeletionPendingWindowInDays": 30},
        ),
        on(
            "before a date",
            when("DateLessThan", "aws:CurrentTime", "2030-01-01T00:00:00Z"),
            KEY,
            parameters={"aws:CurrentTime": "2029-12-31T23:59:59Z"},
        ),
        on(
            "after a date",
            when("DateLessThan", "aws:CurrentTime", "2030-01-01T00:00:00Z"),
            NOT_BY_KEY,
            parameters={"aws:CurrentTime": "2030-01-01T00:00:00Z"},
        ),
        on(
            "source address within",
            when("IpAddress", "aws:SourceIp", ["203.0.113.0/24", "2001:db8::/32"]),
            KEY,
            parameters={"aws:SourceIp": "2001:db8::1"},
        ),
        on(
            "source address outside",
            when("NotIpAddress", "aws:SourceIp", "203.0.113.0/24"),
            NOT_BY_KEY,
            parameters={"aws:SourceIp": "203.0.113.9"},
        ),
        on(
            "variable in a value",
            when("StringEquals", "kms:EncryptionContext:owner", "${aws:username}"),
            KEY,
            encryption_context={"owner": "alice"},
        ),
        on(
            "variable's value has no wildcards",
            when("StringLike", "kms:EncryptionContext:owner", "${kms:EncryptionContext:pattern}"),
            NOT_BY_KEY,
            encryption_context={"owner": "alice", "pattern": "*"},
        ),
        on("variable's default", when("StringEquals", app, "${kms:ViaService, 'ExcelApp'}"), KEY, **excel),
        on(
            "context key in two cases must satisfy an allow twice",
            when("StringEquals", app, "ExcelApp"),
            NOT_BY_KEY,
            encryption_context={"AppName": "ExcelApp", "appname": "WordApp"},
        ),
        on(
            "variable without a value matches nothing",
            when("StringEquals", app, "${aws:PrincipalTag/app}"),
            NOT_BY_KEY,
            **excel,
        ),
        on(
            "variable that makes no arn matches nothing",
            when("ArnLike", "aws:PrincipalArn", "${aws:username}"),
            NOT_BY_KEY,
        ),
        on(
            "variable that is an arn",
            when("ArnLike", "aws:PrincipalArn", "${kms:EncryptionContext:who}"),
            KEY,
            encryption_context={"who": ALICE},
        ),
        on(
            "unlike a variable without a value does not allow",
            when("StringNotEquals", app, "${aws:PrincipalTag/app}"),
            NOT_BY_KEY,
            **excel,
        ),
        denied_on(
            "unlike a variable without a value denies",
            when("StringNotEquals", app, "${aws:PrincipalTag/app}"),
            KEY_DENIES,
            **excel,
        ),
        on("unlike a variable with a value", when("StringNotEquals", app, "${aws:username}"), KEY, **excel),
        on(
            "dollar sign stands for itself",
            when("StringLike", app, "${$}${*}*"),
            KEY,
            encryption_context={"AppName": "$*x"},
        ),
        on("number of a word", when("NumericLessThan", "aws:PrincipalTag/level", 3), NOT_BY_KEY),
        on(
            "number that is none",
            when("NumericLessThan", "kms:RotationPeriodInDays", 100),
            NOT_BY_KEY,
            parameters={"kms:RotationPeriodInDays": "soon"},
        ),
        on(
            "address that is none",
            when("IpAddress", "aws:SourceIp", "203.0.113.0/24"),
            NOT_BY_KEY,
            parameters={"aws:SourceIp": "unix"},
        ),
        denied_on(
            "context key in two cases satisfies a deny once",
            when("StringEquals", app, "ExcelApp"),
            KEY_DENIES,
            encryption_context={"AppName": "ExcelApp", "appname": "WordApp"},
        ),
        denied_on("deny without encryption context", when("Null", keys, "true"), KEY_DENIES),
        denied_on("deny without encryption context: given", when("Null", keys, "true"), KEY, **excel),
        denied_on("deny unless via a service", when("StringNotEquals", "kms:ViaService", "x"), KEY_DENIES),
        denied_on(
            "deny unless in a network feature that is not there",
            when("StringNotEquals", "aws:SourceVpce", "vpce-1"),
            KEY_DENIES,
        ),
        *(
            denied_on(
                f"deny without attestation: {operator} {value}", when(operator, attested, value), outcome
            )
            for operator, value, outcome in [
                ("StringNotEquals", "9fed", KEY_DENIES),
                ("StringNotEqualsIgnoreCase", "9fed", KEY_DENIES),
                ("StringNotLike", "9fed*", KEY_DENIES),
                ("StringEqualsIfExists", "9fed", KEY_DENIES),
                ("ForAllValues:StringEquals", "9fed", KEY_DENIES),
                ("Null", "true", KEY_DENIES),
                ("StringEquals", "9fed", KEY),
                ("Null", "false", KEY),
            ]
        ),
    ]


def _grants() -> list[Case]:
    def under(
        name: str,
        granted: Json,
        outcome: Outcome,
        action: str = "kms:Decrypt",
        caller: str = ALICE,
        **more: Any,
    ) -> Case:
        return Case(name, caller, action, TRUSTS_ACCOUNT, outcome, grants=(granted,), **more)

    equals = {"Constraints": {"EncryptionContextEquals": {"Department": "IT"}}}
    subset = {"Constraints": {"EncryptionContextSubset": {"Department": "IT"}}}
    it = {"encryption_context": {"Department": "IT"}}
    more = {"encryption_context": {"Department": "IT", "Purpose": "Test"}}
    return [
        under("grantee", grant(ALICE, "Decrypt"), GRANT),
        under("not the grantee", grant(BOB, "Decrypt"), NOT_BY_IDENTITY),
        under("operation not granted", grant(ALICE, "Encrypt"), NOT_BY_IDENTITY),
        under("equals", grant(ALICE, "Decrypt", **equals), GRANT, **it),
        under("equals with more pairs", grant(ALICE, "Decrypt", **equals), NOT_BY_IDENTITY, **more),
        under("equals without context", grant(ALICE, "Decrypt", **equals), NOT_BY_IDENTITY),
        under("subset with more pairs", grant(ALICE, "Decrypt", **subset), GRANT, **more),
        under(
            "subset of another value",
            grant(ALICE, "Decrypt", **subset),
            NOT_BY_IDENTITY,
            encryption_context={"Department": "HR"},
        ),
        under(
            "constraint key ignores case",
            grant(ALICE, "Decrypt", **subset),
            GRANT,
            encryption_context={"department": "IT"},
        ),
        under(
            "constraint value does not",
            grant(ALICE, "Decrypt", **subset),
            NOT_BY_IDENTITY,
            encryption_context={"Department": "it"},
        ),
        under(
            "constraint key spelt twice",
            grant(ALICE, "Decrypt", **subset),
            NOT_BY_IDENTITY,
            encryption_context={"Department": "IT", "department": "HR"},
        ),
        under(
            "constraints spare DescribeKey",
            grant(ALICE, "DescribeKey", **equals),
            GRANT,
            action="kms:DescribeKey",
        ),
        under("grant to the account, identity silent", grant(ROOT, "Decrypt"), NOT_BY_IDENTITY),
        under("grant to the account, identity allows", grant(ROOT, "Decrypt"), IDENTITY, identity=(MAY_USE,)),
        Case(
            "grant where the key policy trusts no one",
            ALICE,
            "kms:Decrypt",
            TRUSTS_NO_ONE,
            GRANT,
            grants=(grant(ALICE, "Decrypt"),),
        ),
        Case(
            "grant to a stranger, identity silent",
            STRANGER,
            "kms:Decrypt",
            TRUSTS_ACCOUNT,
            NOT_BY_KEY,
            grants=(grant(STRANGER, "Decrypt"),),
        ),
        Case(
            "grant to a stranger, identity allows",
            STRANGER,
            "kms:Decrypt",
            TRUSTS_ACCOUNT,
            GRANT,
            (MAY_USE,),
            (grant(STRANGER, "Decrypt"),),
        ),
    ]


CASES = [*_trust(), *_other_accounts(), *_denials(), *_actions_and_resources(), *_conditions(), *_grants()]


def text(document: Json) -> str:
    return json.dumps(document)

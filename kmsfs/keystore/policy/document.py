"""Policy documents: JSON text in, a frozen compiled policy or MalformedPolicyError out.

Everything that this module does not know is refused here, when the policy is put: an operator, element or
condition key that were ignored at evaluation would widen access in silence.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn

from kmsfs.errors import LimitExceededError, MalformedPolicyError
from kmsfs.keystore.policy.actions import KMS_ACTIONS
from kmsfs.keystore.policy.arns import check_arn, compile_arn
from kmsfs.keystore.policy.conditions import Condition, Presence, compile_conditions
from kmsfs.keystore.policy.context import is_known_key
from kmsfs.keystore.policy.patterns import (
    Context,
    Matcher,
    Token,
    Wild,
    compile_glob,
    resolve,
    tokenize,
    variable_keys,
)
from kmsfs.keystore.policy.principals import PrincipalSet, compile_principals

MAX_KEY_POLICY_BYTES: Final = 32_768
MAX_IDENTITY_POLICY_BYTES: Final = 6_144
_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_POLICY_ELEMENTS: Final = {"Version", "Id", "Statement"}
_STATEMENT_ELEMENTS: Final = {
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
}
_ACTION: Final = re.compile(r"\*|(?P<service>[A-Za-z0-9-]+):(?P<name>[A-Za-z0-9*?]+)", re.ASCII)


class PolicyKind(Enum):
    """Where a policy is attached: that decides which elements it must have."""

    KEY = "key policy"
    IDENTITY = "identity policy"


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """The Resource or NotResource element."""

    everything: bool
    matchers: tuple[Matcher, ...]
    templates: tuple[tuple[Token, ...], ...]
    negated: bool

    def covers(self, resource: str, context: Context, *, denying: bool) -> bool:
        """Tell whether the element covers a resource; ``*`` stands for an action without a resource."""
        if self.everything:
            return not self.negated
        named = any(matcher(resource) for matcher in self.matchers)
        for template in self.templates:
            matcher = _resolved_arn(template, context)
            if matcher is None and self.negated and not denying:
                return False  # all but a variable without a value is everything: that must not allow
            named = named or (matcher is not None and matcher(resource))
        return named is not self.negated


def _resolved_arn(template: tuple[Token, ...], context: Context) -> Matcher | None:
    tokens = resolve(template, context)
    if tokens is None:
        return None
    try:
        return compile_arn(tokens)
    except ValueError:
        return None  # the variable's value made no ARN


@dataclass(frozen=True, slots=True)
class Statement:
    """One compiled statement."""

    sid: str
    denies: bool
    actions: frozenset[str]
    resources: ResourceSet
    conditions: tuple[Condition | Presence, ...]
    #: None in an identity policy: the principal is the one that the policy is attached to.
    principals: PrincipalSet | None

    def applies(self, action: str, resource: str, context: Context) -> bool:
        """Tell whether everything but the principal fits the request."""
        return (
            action in self.actions
            and self.resources.covers(resource, context, denying=self.denies)
            and all(condition.holds(context, denying=self.denies) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """A compiled policy."""

    kind: PolicyKind
    statements: tuple[Statement, ...]

    @property
    def condition_keys(self) -> frozenset[str]:
        """Every context key, in lower case, that a decision under this policy may depend on."""
        found: set[str] = set()
        for statement in self.statements:
            templates = [*statement.resources.templates]
            for condition in statement.conditions:
                found.add(condition.key)
                if isinstance(condition, Condition):
                    templates += condition.templates
            found = found.union(*(variable_keys(template) for template in templates))
        return frozenset(found)

    @property
    def named_principals(self) -> frozenset[str]:
        """Every principal that a statement names: AWS refuses a key policy with one that does not exist."""
        return frozenset().union(
            *(statement.principals.names for statement in self.statements if statement.principals)
        )


def default_key_policy(account: str) -> str:
    """Return the policy of a key that was created without one: it trusts the account."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def parse_policy(text: str, kind: PolicyKind) -> Policy:
    """Compile a policy document; raise MalformedPolicyError or LimitExceededError."""
    limit = MAX_KEY_POLICY_BYTES if kind is PolicyKind.KEY else MAX_IDENTITY_POLICY_BYTES
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise LimitExceededError(f"{kind.value} is longer than {limit} bytes")
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        return _policy(document, kind)
    except (ValueError, OverflowError) as error:
        raise MalformedPolicyError(f"{kind.value}: {error}") from error
    except RecursionError:
        raise MalformedPolicyError(f"{kind.value}: nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an element stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _policy(document: object, kind: PolicyKind) -> Policy:
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    _refuse_unknown(document, _POLICY_ELEMENTS)
    version = document.get("Version", "2008-10-17")
    if version not in _VERSIONS:
        raise ValueError(f"unknown version {version!r}")
    if not isinstance(document.get("Id", ""), str):
        raise ValueError("Id is not a string")
    statements = document.get("Statement")
    listed = statements if isinstance(statements, list) else [statements]
    if not listed:
        raise ValueError("there is no statement")
    variables = version == "2012-10-17"
    compiled = tuple(_statement(statement, kind, variables=variables) for statement in listed)
    sids = [statement.sid for statement in compiled if statement.sid]
    if len(set(sids)) != len(sids):
        raise ValueError("statement ids are not unique")
    return Policy(kind, compiled)


def _refuse_unknown(found: dict[str, object], known: set[str]) -> None:
    for name in found:
        if name not in known:
            raise ValueError(f"unknown element {name!r}")


def _statement(statement: object, kind: PolicyKind, *, variables: bool) -> Statement:
    if not isinstance(statement, dict):
        raise ValueError("a statement is not an object")
    _refuse_unknown(statement, _STATEMENT_ELEMENTS)
    sid = statement.get("Sid", "")
    if not isinstance(sid, str):
        raise ValueError("Sid is not a string")
    effect = statement.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise ValueError("Effect is neither Allow nor Deny")
    denies = effect == "Deny"
    return Statement(
        sid=sid,
        denies=denies,
        actions=_actions(statement, kind),
        resources=_resources(statement, variables=variables),
        conditions=compile_conditions(statement.get("Condition", {}), variables=variables),
        principals=_principals(statement, kind, denies=denies),
    )


def _one_of(statement: dict[str, object], element: str) -> tuple[object, bool]:
    """Return the value of an element or of its Not form, and whether it is the latter."""
    present = [name for name in (element, f"Not{element}") if name in statement]
    if len(present) != 1:
        raise ValueError(f"a statement has exactly one of {element} and Not{element}")
    return statement[present[0]], present[0] != element


def _texts(value: object, element: str) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    texts = [text for text in listed if isinstance(text, str) and text]
    if not listed or len(texts) != len(listed):
        raise ValueError(f"{element} is not a string or a list of strings")
    return texts


def _principals(statement: dict[str, object], kind: PolicyKind, *, denies: bool) -> PrincipalSet | None:
    if kind is PolicyKind.IDENTITY:
        if "Principal" in statement or "NotPrincipal" in statement:
            raise ValueError("an identity policy names no principal")
        return None
    element, negated = _one_of(statement, "Principal")
    if negated and not denies:
        raise ValueError("NotPrincipal stands only with the effect Deny")
    return compile_principals(element, negated=negated)


def _actions(statement: dict[str, object], kind: PolicyKind) -> frozenset[str]:
    element, negated = _one_of(statement, "Action")
    named: set[str] = set()
    for text in _texts(element, "Action"):
        named |= _matching_actions(text, kind)
    return KMS_ACTIONS - named if negated else frozenset(named)


def _matching_actions(text: str, kind: PolicyKind) -> frozenset[str]:
    found = _ACTION.fullmatch(text)
    if found is None:
        raise ValueError(f"malformed action {text!r}")
    if text == "*":
        return KMS_ACTIONS
    if found["service"].lower() != "kms":
        if kind is PolicyKind.KEY:
            raise ValueError(f"{text!r} is not an action on a key")
        return frozenset()
    # Action names are compared without regard to case, as AWS does.
    matcher = compile_glob((Wild(text.lower()),))
    matching = frozenset(action for action in KMS_ACTIONS if matcher(action.lower()))
    if not matching:
        raise ValueError(f"unknown action {text!r}")
    return matching


def _resources(statement: dict[str, object], *, variables: bool) -> ResourceSet:
    element, negated = _one_of(statement, "Resource")
    tokens = [tokenize(text, variables=variables) for text in _texts(element, "Resource")]
    for value in tokens:
        check_arn(value)
    templates = tuple(value for value in tokens if variable_keys(value))
    for variable in {key for template in templates for key in variable_keys(template)}:
        if not is_known_key(variable):
            raise ValueError(f"unknown policy variable {variable!r}")
    return ResourceSet(
        everything=(Wild("*"),) in tokens,
        matchers=tuple(compile_arn(value) for value in tokens if value not in templates),
        templates=templates,
        negated=negated,
    )

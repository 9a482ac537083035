"""The decision: an explicit deny anywhere, else an allow by key policy, identity policy or grant.

A key policy that names the caller allows by itself. One that names only the caller's account hands the
decision to identity policies: both must allow. Without that trust, identity policies count for nothing,
and a key whose policy trusts no one can be used by no one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from kmsfs.errors import AccessDeniedError
from kmsfs.keystore.policy.actions import ACCOUNT_ACTIONS
from kmsfs.keystore.policy.document import Policy
from kmsfs.keystore.policy.grants import Grant
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.policy.principals import Match, Principal


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: an action such as ``kms:Decrypt``, by whom, on which resource."""

    principal: Principal
    action: str
    #: The key's ARN, an alias's or a principal's, or ``*`` for actions on the account as a whole.
    resource: str
    #: The account that owns the resource.
    account: str
    context: Context
    #: For the constraints of grants.
    encryption_context: Mapping[str, str] = field(default_factory=dict)


class Outcome(Enum):
    """Why a request is allowed or refused; the words are those of AWS's message."""

    KEY_POLICY_ALLOWS = "a resource-based policy allows it"
    IDENTITY_POLICY_ALLOWS = "an identity-based policy allows it"
    ROOT_ALLOWS = "the account's root may act on its account"
    GRANT_ALLOWS = "a grant allows it"
    KEY_POLICY_DENIES = "with an explicit deny in a resource-based policy"
    IDENTITY_POLICY_DENIES = "with an explicit deny in an identity-based policy"
    NO_KEY_POLICY_ALLOWS = "because no resource-based policy allows the {action} action"
    NO_IDENTITY_POLICY_ALLOWS = "because no identity-based policy allows the {action} action"


ALLOWING = frozenset(
    {
        Outcome.KEY_POLICY_ALLOWS,
        Outcome.IDENTITY_POLICY_ALLOWS,
        Outcome.ROOT_ALLOWS,
        Outcome.GRANT_ALLOWS,
    }
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome, and what brought it about."""

    outcome: Outcome
    #: The statement's Sid or the grant's id, if one decided.
    source: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.outcome in ALLOWING


def decide(
    request: Request,
    *,
    key_policy: Policy | None,
    identity_policies: Sequence[Policy] = (),
    grants: Iterable[Grant] = (),
) -> Decision:
    """Evaluate a request; ``key_policy`` is None for actions and aliases that have none."""
    denial = _denial(request, key_policy, identity_policies)
    if denial is not None:
        return denial
    if key_policy is None:
        return _by_identity(request, identity_policies)
    match, sid = _key_policy_match(request, key_policy)
    at_home = request.principal.account == request.account
    if at_home and (match is Match.DIRECT or (match is Match.ACCOUNT and request.principal.is_root)):
        return Decision(Outcome.KEY_POLICY_ALLOWS, sid)
    if match is not Match.NONE:
        by_identity = _by_identity(request, identity_policies)
        if by_identity.allowed:
            return by_identity
    for grant in grants:
        if not grant.allows(request.principal, request.action, request.encryption_context):
            continue
        # A grant to the caller's account, or across accounts, hands the decision on like a key policy does.
        alone = at_home and grant.names(request.principal)
        if alone or _by_identity(request, identity_policies).allowed:
            return Decision(Outcome.GRANT_ALLOWS, grant.grant_id)
    if match is Match.NONE:
        return Decision(Outcome.NO_KEY_POLICY_ALLOWS)
    return Decision(Outcome.NO_IDENTITY_POLICY_ALLOWS)


def require(
    request: Request,
    *,
    key_policy: Policy | None,
    identity_policies: Sequence[Policy] = (),
    grants: Iterable[Grant] = (),
) -> Decision:
    """Evaluate a request and raise AccessDeniedError unless it is allowed."""
    decision = decide(request, key_policy=key_policy, identity_policies=identity_policies, grants=grants)
    if not decision.allowed:
        raise AccessDeniedError(denied_message(request, decision))
    return decision


def denied_message(request: Request, decision: Decision) -> str:
    """Say in AWS's words who may not do what, and why."""
    reason = decision.outcome.value.format(action=request.action)
    return (
        f"User: {request.principal.arn} is not authorized to perform: {request.action} "
        f"on resource: {request.resource} {reason}"
    )


def _denial(
    request: Request, key_policy: Policy | None, identity_policies: Sequence[Policy]
) -> Decision | None:
    for statement in key_policy.statements if key_policy else ():
        if (
            statement.denies
            and statement.principals is not None
            and statement.principals.denies(request.principal)
            and statement.applies(request.action, request.resource, request.context)
        ):
            return Decision(Outcome.KEY_POLICY_DENIES, statement.sid)
    for policy in identity_policies:
        for statement in policy.statements:
            if statement.denies and statement.applies(request.action, request.resource, request.context):
                return Decision(Outcome.IDENTITY_POLICY_DENIES, statement.sid)
    return None


def _key_policy_match(request: Request, key_policy: Policy) -> tuple[Match, str]:
    """Return the strongest way in which an Allow statement names the caller."""
    account: tuple[Match, str] = (Match.NONE, "")
    for statement in key_policy.statements:
        if statement.denies or statement.principals is None:
            continue
        match = statement.principals.allows(request.principal)
        if match is Match.NONE or not statement.applies(request.action, request.resource, request.context):
            continue
        if match is Match.DIRECT:
            return match, statement.sid
        account = (match, statement.sid)
    return account


def _by_identity(request: Request, identity_policies: Sequence[Policy]) -> Decision:
    if request.principal.is_root:
        # The root of an account needs no identity policy; whether the key trusts it was asked before.
        return Decision(Outcome.ROOT_ALLOWS)
    for policy in identity_policies:
        for statement in policy.statements:
            if not statement.denies and statement.applies(request.action, request.resource, request.context):
                return Decision(Outcome.IDENTITY_POLICY_ALLOWS, statement.sid)
    return Decision(Outcome.NO_IDENTITY_POLICY_ALLOWS)


def takes_key_policy(action: str) -> bool:
    """Tell whether an action is on a key, so that the key's policy must be asked."""
    return action not in ACCOUNT_ACTIONS

"""Decisions about one region's keys: who asks, policies and grants are looked up, policy/evaluate.py decides.

What a decision needs of a snapshot is worked out once and kept until the next one. A stored policy that does not
parse, because a stricter version reads it, denies everything on its key or to its user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, cast

from kmsfs.errors import AccessDeniedError, LimitExceededError, MalformedPolicyError
from kmsfs.ids import KeyId
from kmsfs.keystore.access import NewGrant, constraint_parameters, key_policy
from kmsfs.keystore.arn import ROOT, key_arn, principal_arn
from kmsfs.keystore.model import GrantEntry, KeyMetadata
from kmsfs.keystore.policy.actions import CONTEXT_ACTIONS
from kmsfs.keystore.policy.context import (
    KeyFacts,
    encryption_context,
    may_differ_between_requests,
    merge,
    parameter,
    principal_context,
)
from kmsfs.keystore.policy.document import Policy, PolicyKind, parse_policy
from kmsfs.keystore.policy.evaluate import Decision, Outcome, Request, decide, denied_message
from kmsfs.keystore.policy.grants import Grant, Pairs
from kmsfs.keystore.policy.lockout import check_lockout
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.policy.principals import Principal
from kmsfs.keystore.snapshot import Snapshot

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
NO_CONTEXT: Final[Context] = MappingProxyType({})
DENIALS: Final = frozenset({Outcome.KEY_POLICY_DENIES, Outcome.IDENTITY_POLICY_DENIES})
_DENY_ALL: Final = '{"Version":"2012-10-17","Statement":{"Effect":"Deny",%s"Action":"kms:*","Resource":"*"}}'
_DENIES_ALL: Final = {
    PolicyKind.KEY: parse_policy(_DENY_ALL % '"Principal":"*",', PolicyKind.KEY),
    PolicyKind.IDENTITY: parse_policy(_DENY_ALL % "", PolicyKind.IDENTITY),
}
_ENCRYPTION: Final = parameter("kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT")
#: The condition keys that actions have alike whenever they are asked for.
_BY_ACTION: Final[Mapping[str, Context]] = {
    "kms:Encrypt": _ENCRYPTION,
    "kms:Decrypt": _ENCRYPTION,
    "kms:ReEncryptFrom": _ENCRYPTION,
    "kms:ReEncryptTo": _ENCRYPTION,
    "kms:GenerateDataKey": _ENCRYPTION,
    "kms:GenerateDataKeyWithoutPlaintext": _ENCRYPTION,
    "kms:PutKeyPolicy": parameter("kms:PolicyName", "default"),
}


class Caller(NamedTuple):
    """Who asks: the root or a user, by name, and the circumstances that policies may look at."""

    name: str
    circumstances: Context = NO_CONTEXT


class _Compiled(NamedTuple):
    policy: Policy
    volatile: bool


class _Known(NamedTuple):
    principal: Principal
    context: Context
    policies: tuple[Policy, ...]
    volatile: bool
    exists: bool


class _KeyView(NamedTuple):
    context: Context
    policy: Policy
    volatile: bool
    grants: Mapping[str, Sequence[Grant]]  # by grantee


@dataclass(slots=True)
class _View:
    """What decisions need of one snapshot, worked out as it is asked for."""

    snapshot: Snapshot
    callers: dict[str, _Known]
    keys: dict[KeyId, _KeyView]
    aliases: Mapping[KeyId, tuple[str, ...]]
    grants: Mapping[KeyId, Sequence[GrantEntry]]


class Metadata(Protocol):
    """Where the verified metadata are had from (``Ledger``)."""

    @property
    def snapshot(self) -> Snapshot:
        """The metadata as last read."""


class Authorizer:
    """Decides for one region. Thread-safe: what two threads work out at once is the same."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._view: _View | None = None

    def request(
        self,
        caller: Caller,
        action: str,
        key: KeyMetadata | None = None,
        *,
        resource: str = "*",
        context: Context = NO_CONTEXT,
        pairs: Pairs = NOTHING,
    ) -> Request:
        """Return what is asked: ``action`` on a key, or else on ``resource``; ``pairs`` is the encryption context."""
        view = self._current()
        known = self._known(view, caller.name)
        by_action = _BY_ACTION.get(action, NO_CONTEXT)
        parts = [known.context, caller.circumstances, by_action, context, encryption_context(pairs)]
        if key is not None:
            parts.append(self._key(view, key).context)
        account = view.snapshot.account
        where = resource if key is None else key.arn
        return Request(known.principal, action, where, account, merge(*parts), pairs)

    def decide(self, caller: Caller, request: Request, key: KeyMetadata | None = None) -> Decision:
        """Decide a request; without a key, as on an alias or the account, identity policies do so alone."""
        view = self._current()
        known = self._known(view, caller.name)
        if not known.exists:
            return Decision(Outcome.NO_IDENTITY_POLICY_ALLOWS)
        if key is None:
            return decide(request, key_policy=None, identity_policies=known.policies)
        seen = self._key(view, key)
        return decide(
            request,
            key_policy=seen.policy,
            identity_policies=known.policies,
            grants=_grants_to(known.principal, seen),
        )

    def require(
        self,
        caller: Caller,
        action: str,
        key: KeyMetadata | None = None,
        *,
        resource: str = "*",
        context: Context = NO_CONTEXT,
        pairs: Pairs = NOTHING,
    ) -> Decision:
        """Decide, and raise AccessDeniedError in AWS's words unless it is allowed."""
        request = self.request(caller, action, key, resource=resource, context=context, pairs=pairs)
        decision = self.decide(caller, request, key)
        if not decision.allowed:
            raise refused(request, decision)
        return decision

    def require_standing(
        self,
        name: str,
        action: str,
        key: KeyMetadata,
        *,
        circumstances: Context,
        pairs: Pairs = NOTHING,
    ) -> None:
        """As ``require``, for a process that asks the same again and again.

        What cannot change is kept while the metadata are what they are: ``Snapshot.standing``. That leaves out what
        looks at the time of day, or at anything that differs between two requests of one kind.
        """
        view, asked = self._current(), f"kms:{action}"
        self.require(Caller(name, circumstances), asked, key, pairs=pairs)
        known, seen = self._known(view, name), self._key(view, key)
        constrained = asked in CONTEXT_ACTIONS and any(
            grant.constraints.equals is not None or grant.constraints.subset is not None
            for grant in _grants_to(known.principal, seen)
        )
        if not (known.volatile or seen.volatile or constrained):
            view.snapshot.standing.add((name, action, key.key_id))

    def check_lockout(self, caller: Caller, document: str, key: KeyMetadata | None) -> None:
        """Raise LockoutError if the caller could not put a policy again; without a key, it is a new one's."""
        view = self._current()
        new = key_arn(view.snapshot.region, view.snapshot.account, KeyId("*"))
        request = self.request(caller, "kms:PutKeyPolicy", key, resource=new)
        policies = self._known(view, caller.name).policies
        check_lockout(request, parse_policy(document, PolicyKind.KEY), policies)

    def require_grant(self, caller: Caller, key: KeyMetadata, wanted: NewGrant) -> None:
        """Decide on CreateGrant: who may do it by a grant alone hands on no more than that grant gives."""
        context, pairs = wanted.parameters(), wanted.constraints.pairs
        request = self.request(caller, "kms:CreateGrant", key, context=context, pairs=pairs)
        decision = self.require(caller, "kms:CreateGrant", key, context=context, pairs=pairs)
        if decision.outcome is not Outcome.GRANT_ALLOWS:
            return
        view = self._current()
        known, seen = self._known(view, caller.name), self._key(view, key)
        by = [  # one of the account's counts only if an identity policy lets the caller use it
            grant
            for grant in _grants_to(known.principal, seen)
            if decide(
                request, key_policy=seen.policy, identity_policies=known.policies, grants=[grant]
            ).allowed
        ]
        if not any(parent.may_create(wanted.grant("")) for parent in by):
            raise refused(request, Decision(Outcome.NO_KEY_POLICY_ALLOWS))

    def require_retirement(self, caller: Caller, entry: GrantEntry, key: KeyMetadata) -> None:
        """Decide on RetireGrant: a policy may deny it, and only the grant itself allows it, or being the root.

        A grant that an account may retire is retired by its root, and by those whom identity policies let.
        """
        constraints = constraint_parameters(entry.grant.constraints)
        request = self.request(caller, "kms:RetireGrant", key, context=constraints)
        decision = self.decide(caller, request, key)
        principal = request.principal
        if not self._known(self._current(), caller.name).exists:
            raise refused(request, decision)
        may = entry.grant.may_be_retired_by(principal) or (
            principal.is_root and principal.account_arn == entry.account_arn
        )
        if not may and entry.grant.retiring_principal == principal.account_arn:
            may = self.decide(caller, request).allowed
        if decision.outcome in DENIALS or not may:
            denied = decision if not decision.allowed else Decision(Outcome.NO_KEY_POLICY_ALLOWS)
            raise refused(request, denied)

    def principal(self, name: str) -> Principal:
        """Return the principal of that name."""
        return self._known(self._current(), name).principal

    def _current(self) -> _View:
        snapshot, view = self._metadata.snapshot, self._view
        if view is None or view.snapshot is not snapshot:
            aliases: dict[KeyId, tuple[str, ...]] = {}
            for alias in snapshot.aliases.values():
                aliases[alias.target_key_id] = (*aliases.get(alias.target_key_id, ()), alias.name)
            grants: dict[KeyId, list[GrantEntry]] = {}
            for entry in snapshot.grants.values():
                grants.setdefault(entry.key_id, []).append(entry)
            view = self._view = _View(snapshot, {}, {}, aliases, grants)
        return view

    def _known(self, view: _View, name: str) -> _Known:
        known = view.callers.get(name)
        if known is None:
            known = view.callers[name] = _caller(view.snapshot, name)
        return known

    def _key(self, view: _View, key: KeyMetadata) -> _KeyView:
        seen = view.keys.get(key.key_id)
        if seen is None:
            seen = view.keys[key.key_id] = _key(view, key)
        return seen


def refused(request: Request, decision: Decision) -> AccessDeniedError:
    """Return the refusal of a request."""
    return AccessDeniedError(
        denied_message(request, decision), hint="kmsfs key policy get shows whom a key trusts"
    )


def time_context(now: float) -> Context:
    """Return the condition keys of the time of a request."""
    return _second(int(now))


@lru_cache(maxsize=4)
def _second(now: int) -> Context:
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return MappingProxyType({"aws:currenttime": (moment,), "aws:epochtime": (str(now),)})


def parses(document: str, kind: PolicyKind) -> bool:
    """Whether a stored policy can be read by this version."""
    return _compiled(document, kind).policy is not _DENIES_ALL[kind]


@lru_cache(maxsize=4096)
def _compiled(document: str, kind: PolicyKind) -> _Compiled:
    try:
        policy = parse_policy(document, kind)
    except (MalformedPolicyError, LimitExceededError):
        policy = _DENIES_ALL[kind]
    return _Compiled(policy, any(map(may_differ_between_requests, policy.condition_keys)))


def _caller(snapshot: Snapshot, name: str) -> _Known:
    user = snapshot.users.get(name)
    principal = Principal(principal_arn(snapshot.account, name), "" if user is None else user.user_id)
    compiled = [
        _compiled(document, PolicyKind.IDENTITY)
        for document in snapshot.identity_policies.get(name, NOTHING).values()
    ]
    return _Known(
        principal=principal,
        context=principal_context(principal),
        policies=tuple(found.policy for found in compiled),
        volatile=any(found.volatile for found in compiled),
        exists=name == ROOT or user is not None,
    )


def _key(view: _View, key: KeyMetadata) -> _KeyView:
    compiled = _compiled(key_policy(view.snapshot, key), PolicyKind.KEY)
    grants: dict[str, list[Grant]] = {}
    for entry in view.grants.get(key.key_id, ()):
        grants.setdefault(entry.grant.grantee, []).append(entry.grant)
    tags = view.snapshot.tags.get(key.key_id, NOTHING)
    context = _facts(key, view.aliases.get(key.key_id, ()), tags).context()
    return _KeyView(context, compiled.policy, compiled.volatile, grants)


def _facts(key: KeyMetadata, aliases: tuple[str, ...], tags: Mapping[str, str]) -> KeyFacts:
    shown = key.to_aws()
    regions = cast("Mapping[str, str]", shown.get("MultiRegionConfiguration", NOTHING))
    return KeyFacts(
        arn=key.arn,
        account=key.account,
        spec=str(shown["KeySpec"]),
        usage=str(shown["KeyUsage"]),
        origin=str(shown["Origin"]),
        multi_region=shown["MultiRegion"] is True,
        multi_region_key_type=regions.get("MultiRegionKeyType"),
        aliases=aliases,
        tags=tags,
    )


def _grants_to(principal: Principal, seen: _KeyView) -> Sequence[Grant]:
    if not seen.grants:
        return ()
    own = seen.grants.get(principal.arn, ())
    if principal.is_root:
        return own
    return [*own, *seen.grants.get(principal.account_arn, ())]

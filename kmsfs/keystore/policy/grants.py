"""Grants: delegated rights on one key, with constraints on the encryption context."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kmsfs.errors import InvalidArnError, InvalidRequestError
from kmsfs.keystore.policy.actions import CONTEXT_ACTIONS, GRANT_OPERATIONS, UNCONSTRAINED
from kmsfs.keystore.policy.patterns import folded
from kmsfs.keystore.policy.principals import Principal

Pairs = Mapping[str, str]
MAX_PAIRS: Final = 8  # of one constraint
MAX_VALUE_LENGTH: Final = 384
_PREFIX: Final = "kms:"


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the encryption context of a request must be or contain; keys ignore case, values do not."""

    equals: Pairs | None = None
    subset: Pairs | None = None

    @property
    def pairs(self) -> Pairs:
        """The encryption context that they name."""
        return self.equals or self.subset or {}

    def admit(self, encryption_context: Pairs) -> bool:
        """Tell whether a request's encryption context satisfies the constraints."""
        if self.equals is None and self.subset is None:
            return True
        found = _folded(encryption_context)
        if self.equals is not None and found != _folded(self.equals):
            return False
        return self.subset is None or _contains(found, self.subset)

    def narrows(self, parent: "Constraints") -> bool:
        """Tell whether everything that these constraints admit is admitted by the parent's, too."""
        own = self.equals if self.equals is not None else self.subset
        if parent.equals is not None and (
            self.equals is None or _folded(self.equals) != _folded(parent.equals)
        ):
            return False
        return parent.subset is None or (own is not None and _contains(_folded(own), parent.subset))


def _folded(pairs: Pairs) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for key, value in pairs.items():
        lowered = folded(key)
        found[lowered] = found.get(lowered, frozenset()) | {value}
    return found


def _contains(found: Mapping[str, frozenset[str]], wanted: Pairs) -> bool:
    # A key that the request spells twice with different values is ambiguous: it satisfies nothing.
    return all(found.get(key) == values for key, values in _folded(wanted).items())


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant; ``key_arn`` and who may see it are the store's matter."""

    grant_id: str
    grantee: str
    operations: frozenset[str]
    constraints: Constraints = Constraints()
    retiring_principal: str | None = None

    def names(self, principal: Principal) -> bool:
        """Tell whether the grant is for the caller itself, not for its account as a whole."""
        return self.grantee == principal.arn

    def allows(self, principal: Principal, action: str, encryption_context: Pairs) -> bool:
        """Tell whether the grant covers an action of the caller or, by its account, may do so."""
        if self.grantee not in (principal.arn, principal.account_arn):
            return False
        operation = action.removeprefix(_PREFIX)
        if operation not in self.operations:
            return False
        # Where no encryption context can be given, as for MACs, a constraint lets nothing pass.
        return operation in UNCONSTRAINED or self.constraints.admit(encryption_context)

    def may_be_retired_by(self, principal: Principal) -> bool:
        """Tell whether the caller may retire the grant without any policy."""
        if self.retiring_principal == principal.arn:
            return True
        return self.grantee == principal.arn and "RetireGrant" in self.operations

    def may_create(self, child: "Grant") -> bool:
        """Tell whether a grantee of this grant may create another: not wider than its own."""
        return (
            "CreateGrant" in self.operations
            and child.operations <= self.operations
            and child.constraints.narrows(self.constraints)
        )


def check_grant(grant: Grant) -> None:
    """Raise InvalidRequestError or InvalidArnError for a grant that CreateGrant must refuse."""
    if not grant.operations:
        raise InvalidRequestError("a grant names no operation")
    unknown = grant.operations - GRANT_OPERATIONS
    if unknown:
        raise InvalidRequestError(f"a grant cannot allow {', '.join(sorted(unknown))}")
    _check_constraints(grant)
    for arn in (grant.grantee, grant.retiring_principal):
        if arn is not None:
            _check_principal(arn)


def _check_constraints(grant: Grant) -> None:
    given = [pairs for pairs in (grant.constraints.equals, grant.constraints.subset) if pairs]
    unbound = {name for name in grant.operations if _PREFIX + name not in CONTEXT_ACTIONS} - UNCONSTRAINED
    if given and unbound:
        # Such an operation would be allowed as if the constraint were not there.
        raise InvalidRequestError(
            f"grant operations {', '.join(sorted(unbound))} have no encryption context to constrain"
        )
    for pairs in given:
        if len(pairs) > MAX_PAIRS or any(len(value) > MAX_VALUE_LENGTH for value in pairs.values()):
            raise InvalidRequestError(
                f"a grant constraint has at most {MAX_PAIRS} pairs, their values at most"
                f" {MAX_VALUE_LENGTH} characters"
            )
        if len(_folded(pairs)) != len(pairs):
            raise InvalidRequestError("a grant constraint spells one encryption context key in two ways")


def _check_principal(arn: str) -> None:
    try:
        Principal(arn)
    except ValueError as error:
        raise InvalidArnError(f"ARN does not refer to a valid principal: {arn}") from error

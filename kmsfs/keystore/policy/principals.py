"""Who asks, and whom a statement names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kmsfs.errors import InvalidPrincipalError

_PRINCIPAL_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:(?:iam|sts)::(?P<account>\d{12}):"
    r"(?P<kind>root|(?:user|role|assumed-role|federated-user)/(?P<path>[\w+=,.@/-]+))",
    re.ASCII,
)
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_SERVICE: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)


@dataclass(frozen=True)
class Principal:
    """An authenticated caller: the account's root or a user."""

    arn: str
    user_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    account: str = field(init=False)
    name: str = field(init=False)
    is_root: bool = field(init=False)
    account_arn: str = field(init=False)

    def __post_init__(self) -> None:
        found = _PRINCIPAL_ARN.fullmatch(self.arn)
        if found is None:
            raise ValueError(f"{self.arn!r} is not a principal's ARN")
        partition = self.arn.split(":", 2)[1]
        object.__setattr__(self, "account", found["account"])
        object.__setattr__(self, "is_root", found["kind"] == "root")
        object.__setattr__(self, "name", (found["path"] or "root").rpartition("/")[2])
        object.__setattr__(self, "account_arn", f"arn:{partition}:iam::{found['account']}:root")


class Match(Enum):
    """How an Allow statement of a key policy names the caller."""

    NONE = "not named"
    #: By itself, or everyone is named: the key policy alone allows.
    DIRECT = "named"
    #: Through its account: identity policies must allow as well.
    ACCOUNT = "account named"


@dataclass(frozen=True, slots=True)
class PrincipalSet:
    """The Principal or NotPrincipal element."""

    names: frozenset[str] = frozenset()
    everyone: bool = False
    negated: bool = False

    def allows(self, principal: Principal) -> Match:
        """Tell how an Allow statement names the caller."""
        if self.everyone or principal.arn in self.names:
            return Match.DIRECT
        return Match.ACCOUNT if principal.account_arn in self.names else Match.NONE

    def denies(self, principal: Principal) -> bool:
        """Tell whether a Deny statement reaches the caller.

        NotPrincipal spares a user only if both the user and its account are listed, as AWS documents.
        """
        if self.negated:
            return not (principal.arn in self.names and principal.account_arn in self.names)
        return self.everyone or principal.arn in self.names or principal.account_arn in self.names


def compile_principals(element: object, *, negated: bool) -> PrincipalSet:
    """Compile a Principal or NotPrincipal element; raise ValueError or InvalidPrincipalError if it is malformed."""
    if element == "*":
        return _everyone(negated=negated)
    if not isinstance(element, dict) or not element:
        raise ValueError("a principal is '*' or an object such as {\"AWS\": ...}")
    names: set[str] = set()
    for kind, values in element.items():
        for value in values if isinstance(values, list) else [values]:
            names.add(_name(kind, value))
    if not names:
        raise ValueError("a statement names no principal")
    if "*" in names:
        return _everyone(negated=negated)
    return PrincipalSet(frozenset(names), negated=negated)


def _everyone(*, negated: bool) -> PrincipalSet:
    if negated:
        raise ValueError("NotPrincipal '*' would exempt everyone")
    return PrincipalSet(everyone=True)


def _name(kind: str, value: object) -> str:
    if kind not in ("AWS", "Service"):
        raise ValueError(f"unknown kind of principal {kind!r}")
    if not isinstance(value, str):
        raise ValueError("a principal is not a string")
    if kind == "Service":
        if not _SERVICE.fullmatch(value):
            raise ValueError(f"invalid service principal {value!r}")
        return value
    if value == "*" or _PRINCIPAL_ARN.fullmatch(value):
        return value
    if _ACCOUNT.fullmatch(value):
        return f"arn:aws:iam::{value}:root"
    raise InvalidPrincipalError(f"key policy: invalid principal {value!r}")

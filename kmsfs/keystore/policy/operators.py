"""Condition operators: how one value of a policy is compared with one value of a request.

Each operator turns a policy value into a predicate once, when the policy is parsed. A malformed value
is a ValueError then; a request's value that is not of the operator's type simply does not match.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from math import isfinite
from typing import Final

from kmsfs.keystore.policy.arns import compile_arn
from kmsfs.keystore.policy.patterns import Literal, Matcher, Token, compile_glob, exact

Compile = Callable[[Sequence[Token]], Matcher]


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the operator table."""

    compile: Compile
    negated: bool = False
    #: Policy variables have a meaning only in string and ARN operators.
    variables: bool = False


def _string_equals(tokens: Sequence[Token]) -> Matcher:
    return exact(tokens).__eq__


def _string_equals_ignore_case(tokens: Sequence[Token]) -> Matcher:
    wanted = exact(tokens).casefold()
    return lambda value: value.casefold() == wanted


def _bool(tokens: Sequence[Token]) -> Matcher:
    wanted = exact(tokens).lower()
    if wanted not in ("true", "false"):
        raise ValueError(f"{exact(tokens)!r} is not a boolean")
    return lambda value: value.lower() == wanted


def parse_number(text: str) -> float:
    """Return a finite number or raise ValueError."""
    number = float(text)
    if not isfinite(number) or "_" in text:
        raise ValueError(f"{text!r} is not a number")
    return number


def parse_date(text: str) -> float:
    """Return seconds since the epoch of an ISO 8601 date or of epoch seconds, or raise ValueError.

    A year or a date without hyphens is neither: as seconds it would be a day of 1970.
    """
    if len(text) in (4, 8) and text.isdecimal():
        raise ValueError(f"{text!r} is not a date")
    try:
        return parse_number(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _ordered(
    parse: Callable[[str], float], compare: Callable[[float, float], bool]
) -> Callable[[Sequence[Token]], Matcher]:
    def compile_value(tokens: Sequence[Token]) -> Matcher:
        wanted = parse(exact(tokens))

        def matches(value: str) -> bool:
            try:
                return compare(parse(value), wanted)
            except (ValueError, OverflowError):
                return False

        return matches

    return compile_value


def _ip_address(tokens: Sequence[Token]) -> Matcher:
    network = ip_network(exact(tokens), strict=False)

    def matches(value: str) -> bool:
        try:
            return ip_address(value) in network
        except ValueError:
            return False

    return matches


def _ordered_family(name: str, parse: Callable[[str], float]) -> dict[str, Operator]:
    return {
        f"{name}Equals": Operator(_ordered(parse, operator.eq)),
        f"{name}NotEquals": Operator(_ordered(parse, operator.eq), negated=True),
        f"{name}LessThan": Operator(_ordered(parse, operator.lt)),
        f"{name}LessThanEquals": Operator(_ordered(parse, operator.le)),
        f"{name}GreaterThan": Operator(_ordered(parse, operator.gt)),
        f"{name}GreaterThanEquals": Operator(_ordered(parse, operator.ge)),
    }


#: Null is not here: it looks at the key's presence, not at its values (conditions.py).
#: BinaryEquals is not either: no context key of kmsfs is binary.
OPERATORS: Final[dict[str, Operator]] = {
    "StringEquals": Operator(_string_equals, variables=True),
    "StringNotEquals": Operator(_string_equals, negated=True, variables=True),
    "StringEqualsIgnoreCase": Operator(_string_equals_ignore_case, variables=True),
    "StringNotEqualsIgnoreCase": Operator(_string_equals_ignore_case, negated=True, variables=True),
    "StringLike": Operator(compile_glob, variables=True),
    "StringNotLike": Operator(compile_glob, negated=True, variables=True),
    # AWS documents ArnEquals and ArnLike as identical: both take wildcards.
    "ArnEquals": Operator(compile_arn, variables=True),
    "ArnLike": Operator(compile_arn, variables=True),
    "ArnNotEquals": Operator(compile_arn, negated=True, variables=True),
    "ArnNotLike": Operator(compile_arn, negated=True, variables=True),
    "Bool": Operator(_bool),
    "IpAddress": Operator(_ip_address),
    "NotIpAddress": Operator(_ip_address, negated=True),
    **_ordered_family("Numeric", parse_number),
    **_ordered_family("Date", parse_date),
}


def literal(text: str) -> tuple[Token, ...]:
    """Return the tokens of a value in which nothing is special."""
    return (Literal(text),)

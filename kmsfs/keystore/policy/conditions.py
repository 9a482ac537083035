"""The Condition element of a statement, compiled: every condition must hold, any of its values may match.

A key that is absent makes a positive operator false and a negated one true, as AWS documents. A key with
several values under an operator without ForAnyValue or ForAllValues is undefined at AWS; here it is
read so that it never widens access: in an Allow every value must satisfy it, in a Deny one is enough.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kmsfs.keystore.policy.context import is_known_key
from kmsfs.keystore.policy.operators import OPERATORS, Compile, literal
from kmsfs.keystore.policy.patterns import (
    Context,
    Matcher,
    Token,
    folded,
    resolve,
    tokenize,
    variable_keys,
)


class Qualifier(Enum):
    """The set operator in front of an operator's name."""

    NONE = ""
    FOR_ALL_VALUES = "ForAllValues"
    FOR_ANY_VALUE = "ForAnyValue"


_IF_EXISTS: Final = "IfExists"
Template = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One context key under one operator."""

    key: str
    negated: bool
    matchers: tuple[Matcher, ...]
    qualifier: Qualifier = Qualifier.NONE
    if_exists: bool = False
    #: Values with policy variables; they are compiled anew for every request.
    templates: tuple[Template, ...] = ()
    compile: Compile | None = field(default=None, repr=False)

    def holds(self, context: Context, *, denying: bool) -> bool:
        """Tell whether the request satisfies this condition."""
        values = context.get(self.key)
        if not values:
            return self._holds_without_value()
        matchers = self.matchers
        if self.templates:
            resolved = self._resolved(context)
            if self.negated and not denying and len(resolved) < len(self.templates):
                return False  # unlike a variable without a value is everything: that must not allow
            matchers += resolved
        every = self.qualifier is Qualifier.FOR_ALL_VALUES or (
            self.qualifier is Qualifier.NONE and not denying
        )
        for value in values:
            satisfied = any(matcher(value) for matcher in matchers) is not self.negated
            if satisfied is not every:
                return satisfied
        return every

    def _holds_without_value(self) -> bool:
        if self.qualifier is Qualifier.FOR_ALL_VALUES or self.if_exists:
            return True
        return self.negated and self.qualifier is Qualifier.NONE

    def _resolved(self, context: Context) -> tuple[Matcher, ...]:
        assert self.compile is not None  # noqa: S101 - templates exist only together with it
        matchers = []
        for template in self.templates:
            tokens = resolve(template, context)
            if tokens is None:
                continue
            try:
                matchers.append(self.compile(tokens))
            except ValueError:
                continue  # the variable's value made no ARN: it matches nothing
        return tuple(matchers)


@dataclass(frozen=True, slots=True)
class Presence:
    """The Null operator: does the key have a value in this request?"""

    key: str
    absent: bool

    def holds(self, context: Context, *, denying: bool) -> bool:
        """Tell whether the key is absent or present, as wanted."""
        return bool(context.get(self.key)) is not self.absent


def compile_conditions(block: object, *, variables: bool) -> tuple[Condition | Presence, ...]:
    """Compile a Condition element; raise ValueError if anything in it is unknown or malformed."""
    if not isinstance(block, dict):
        raise ValueError("Condition is not an object")
    compiled: list[Condition | Presence] = []
    for name, keys in block.items():
        if not isinstance(keys, dict) or not keys:
            raise ValueError(f"condition operator {name!r} has no condition keys")
        for key, values in keys.items():
            compiled.append(_compile_one(name, key, _values(key, values), variables=variables))
    return tuple(compiled)


def _values(key: str, values: object) -> list[str]:
    listed = values if isinstance(values, list) else [values]
    texts = []
    for value in listed:
        if isinstance(value, bool):
            texts.append("true" if value else "false")
        elif isinstance(value, str | int | float):
            texts.append(str(value))
        else:
            raise ValueError(f"a value of condition key {key!r} is not a string, number or boolean")
    if not texts:
        raise ValueError(f"condition key {key!r} has no values")
    return texts


def _compile_one(name: str, key: str, values: list[str], *, variables: bool) -> Condition | Presence:
    if not is_known_key(key):
        raise ValueError(f"unknown condition key {key!r}")
    prefix, colon, rest = name.partition(":")
    try:
        qualifier = Qualifier(prefix) if colon else Qualifier.NONE
    except ValueError:
        raise ValueError(f"unknown condition operator {name!r}") from None
    base = rest if colon else prefix
    if base == "Null" and qualifier is Qualifier.NONE:
        return _presence(key, values)
    if_exists = base.endswith(_IF_EXISTS)
    operator = OPERATORS.get(base.removesuffix(_IF_EXISTS))
    if operator is None or not prefix:
        raise ValueError(f"unknown condition operator {name!r}")
    tokens = [
        tokenize(value, variables=variables) if operator.variables else literal(value) for value in values
    ]
    templates = tuple(value for value in tokens if variable_keys(value))
    for variable in {key for template in templates for key in variable_keys(template)}:
        if not is_known_key(variable):
            raise ValueError(f"unknown policy variable {variable!r}")
    return Condition(
        key=folded(key),
        negated=operator.negated,
        matchers=tuple(operator.compile(value) for value in tokens if value not in templates),
        qualifier=qualifier,
        if_exists=if_exists,
        templates=templates,
        compile=operator.compile,
    )


def _presence(key: str, values: list[str]) -> Presence:
    if len(values) != 1 or values[0].lower() not in ("true", "false"):
        raise ValueError(f"Null of condition key {key!r} takes one of true and false")
    return Presence(folded(key), absent=values[0].lower() == "true")

"""Kinds of request values, and how each is read from JSON.

A value of the wrong type ends the request at once (SerializationException). One of the right type that breaks
a constraint is noted in AWS's words, and reading goes on, so that all violations are told together.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn, Protocol

from kmsfs.api.refusal import Refusal

_INT32: Final = range(-(2**31), 2**31)
#: Characters of a value that a message quotes: one more than the longest text but a policy may have.
_SHOWN: Final = 8193


class Shape(Protocol):
    """One kind of value."""

    def read(self, raw: object, path: str, problems: list[str]) -> object:
        """Return the value of ``raw`` or raise Refusal; append violated constraints to ``problems``."""


def malformed(message: str) -> NoReturn:
    """Refuse a body that is no JSON of the right types."""
    raise Refusal("SerializationException", message)


def wrong_type(raw: object, wanted: str) -> NoReturn:
    """Refuse a value of another type than the shape's."""
    if isinstance(raw, bool):
        malformed(f"{str(raw).upper()}_VALUE can not be converted to {wanted}")
    if isinstance(raw, int | float):
        malformed(f"NUMBER_VALUE can not be converted to {wanted}")
    if isinstance(raw, str):
        malformed(f"STRING_VALUE can not be converted to {wanted}")
    if isinstance(raw, list):
        malformed("Start of list found where not expected")
    malformed("Start of structure or map found where not expected.")


def violation(shown: str, path: str, constraint: str) -> str:
    """Return one violated constraint in AWS's words."""
    return f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}"


def null_value(path: str) -> str:
    """Return the violation of a required member that is missing."""
    return violation(" null", path, "Member must not be null")


def length_constraints(length: int, minimum: int | None, maximum: int | None) -> list[str]:
    """Return the constraints that a length breaks."""
    if maximum is not None and length > maximum:
        return [f"Member must have length less than or equal to {maximum}"]
    if minimum is not None and length < minimum:
        return [f"Member must have length greater than or equal to {minimum}"]
    return []


def _quoted(value: object) -> str:
    text = str(value)
    return f" '{text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}'"


@dataclass(frozen=True)
class Text:
    """A string; ``values`` makes it an enumeration."""

    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    values: tuple[str, ...] = ()
    _compiled: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # re.ASCII: the model's patterns are Java's, where a class such as \w is ASCII.
        object.__setattr__(self, "_compiled", re.compile(self.pattern, re.ASCII) if self.pattern else None)

    def read(self, raw: object, path: str, problems: list[str]) -> str:
        """Read a string."""
        text = read_text(raw)
        problems += [violation(_quoted(text), path, broken) for broken in self.broken(text)]
        return text

    def broken(self, text: str) -> list[str]:
        """Return the constraints that a string breaks."""
        if self.values:
            return [] if text in self.values else [self._enumeration()]
        broken = length_constraints(len(text), self.minimum, self.maximum)
        too_long = self.maximum is not None and len(text) > self.maximum
        # Not on a text that is too long anyway: what a pattern may cost stays bounded.
        if self._compiled is not None and not too_long and not self._compiled.fullmatch(text):
            broken.insert(0, f"Member must satisfy regular expression pattern: {self.pattern}")
        return broken

    def _enumeration(self) -> str:
        return f"Member must satisfy enum value set: [{', '.join(self.values)}]"

    def constraints(self) -> str:
        """Return all constraints; AWS lists them when a member of a list breaks one."""
        if self.values:
            return self._enumeration()
        parts = [
            f"Member must have length less than or equal to {self.maximum}"
            if self.maximum is not None
            else "",
            f"Member must have length greater than or equal to {self.minimum}"
            if self.minimum is not None
            else "",
            f"Member must satisfy regular expression pattern: {self.pattern}" if self.pattern else "",
        ]
        return ", ".join(part for part in parts if part)


def read_text(raw: object) -> str:
    """Return a string that can be written as UTF-8."""
    if not isinstance(raw, str):
        wrong_type(raw, "a String")
    if not raw.isascii():
        # JSON can spell half of a surrogate pair; no such string exists outside Python.
        try:
            raw.encode()
        except UnicodeEncodeError:
            malformed("Unpaired surrogate in a string")
    return raw


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, base64 on the wire; limits count bytes. Messages never show them."""

    minimum: int
    maximum: int

    def read(self, raw: object, path: str, problems: list[str]) -> bytes:
        """Read base64, strictly: no white space, no missing padding."""
        if not isinstance(raw, str):
            wrong_type(raw, "a Blob")
        try:
            value = binascii.a2b_base64(raw, strict_mode=True)
        except ValueError:
            malformed(f"Value at '{path}' is not base64")
        broken = length_constraints(len(value), self.minimum, self.maximum)
        problems += [violation("", path, constraint) for constraint in broken]
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """A 32-bit integer."""

    minimum: int
    maximum: int

    def read(self, raw: object, path: str, problems: list[str]) -> int:
        """Read an integer; a number with a fraction is none."""
        if isinstance(raw, bool) or not isinstance(raw, int) or raw not in _INT32:
            wrong_type(raw, "an Integer")
        if raw > self.maximum:
            constraint = f"Member must have value less than or equal to {self.maximum}"
            problems.append(violation(_quoted(raw), path, constraint))
        if raw < self.minimum:
            constraint = f"Member must have value greater than or equal to {self.minimum}"
            problems.append(violation(_quoted(raw), path, constraint))
        return raw


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""

    def read(self, raw: object, path: str, problems: list[str]) -> bool:
        """Read a boolean; a string that says so is none."""
        if not isinstance(raw, bool):
            wrong_type(raw, "a Boolean")
        return raw


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A moment, seconds since the epoch on the wire."""

    def read(self, raw: object, path: str, problems: list[str]) -> datetime:
        """Read seconds, with or without a fraction."""
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            wrong_type(raw, "a Timestamp")
        try:
            return datetime.fromtimestamp(raw, UTC)
        except (ValueError, OverflowError, OSError):
            malformed("Timestamp is out of range")


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose members are of one shape."""

    member: Shape
    minimum: int | None = None
    maximum: int | None = None

    def read(self, raw: object, path: str, problems: list[str]) -> list[object]:
        """Read a list; a member that breaks a constraint is told as AWS does, with the whole list."""
        if not isinstance(raw, list):
            malformed("Expected list or null")
        shown = f" '[{', '.join(str(item)[:_SHOWN] for item in raw[:16] if isinstance(item, str))}]'"
        broken = length_constraints(len(raw), self.minimum, self.maximum)
        problems += [violation(shown, path, constraint) for constraint in broken]
        if not isinstance(self.member, Text):
            return [
                self.member.read(item, f"{path}.{position}.member", problems)
                for position, item in enumerate(raw, 1)
            ]
        texts = [read_text(item) for item in raw]
        if any(self.member.broken(text) for text in texts):
            constraint = f"Member must satisfy constraint: [{self.member.constraints()}]"
            problems.append(violation(shown, path, constraint))
        return list(texts)


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map from strings to strings."""

    key: Text
    value: Text

    def read(self, raw: object, path: str, problems: list[str]) -> dict[str, str]:
        """Read a map."""
        if not isinstance(raw, dict):
            malformed("Expected map or null")
        return {read_text(key): read_text(value) for key, value in raw.items()}


@dataclass(frozen=True)
class Structure:
    """Named members; a member that the model does not know is ignored, as AWS does."""

    members: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    _names: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Messages name a member as Java does.
        names = {name: name[0].lower() + name[1:] for name in self.members}
        object.__setattr__(self, "_names", names)

    def read(self, raw: object, path: str, problems: list[str]) -> dict[str, object]:
        """Read a structure; a null member counts as absent."""
        if not isinstance(raw, dict):
            wrong_type(raw, "a Structure")
        prefix = f"{path}." if path else ""
        found: dict[str, object] = {}
        for name, shape in self.members.items():
            value = raw.get(name)
            if value is not None:
                found[name] = shape.read(value, prefix + self._names[name], problems)
            elif name in self.required:
                problems.append(null_value(prefix + self._names[name]))
        return found

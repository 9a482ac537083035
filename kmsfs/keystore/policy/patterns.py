"""Wildcards of the policy language: ``*``, ``?`` and, from version 2012-10-17, ``${variable}``.

Every match takes linear time per star-separated segment: no backtracking over stars, so that no
pattern in a policy can stall the server.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Context = Mapping[str, tuple[str, ...]]
Matcher = Callable[[str], bool]

_VARIABLE: Final = re.compile(r"\$\{([^{}]*)\}")
_ESCAPES: Final = frozenset("*?$")


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that stands for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Wild:
    """Text in which ``*`` and ``?`` are wildcards."""

    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A context key whose value stands here, or the default written beside it."""

    key: str
    default: str | None


Token = Literal | Wild | Variable


def tokenize(text: str, *, variables: bool) -> tuple[Token, ...]:
    """Split a policy string into tokens; raise ValueError on a malformed variable."""
    if not variables or "${" not in text:
        return (Wild(text),)
    tokens: list[Token] = []
    position = 0
    for found in _VARIABLE.finditer(text):
        tokens.append(Wild(text[position : found.start()]))
        tokens.append(_variable(found[1]))
        position = found.end()
    tokens.append(Wild(text[position:]))
    if any(isinstance(token, Wild) and "${" in token.text for token in tokens):
        raise ValueError(f"unfinished policy variable in {text!r}")
    return tuple(token for token in tokens if not (isinstance(token, Wild) and not token.text))


def folded(name: str) -> str:
    """Return the name of a condition key, or a part of it, in lower case, whatever it stands beside.

    ``str.lower`` makes of a capital sigma one letter or another, by what precedes it.
    """
    return name.lower() if name.isascii() else "".join(map(str.lower, name))


def _variable(body: str) -> Token:
    if body in _ESCAPES:
        return Literal(body)
    name, comma, default = body.partition(",")
    name, default = name.strip(), default.strip()
    if not re.fullmatch(r"[A-Za-z0-9-]+:[^\s,']+", name):
        raise ValueError(f"malformed policy variable '${{{body}}}'")
    if not comma:
        return Variable(folded(name), None)
    if len(default) < 2 or default[0] != "'" or default[-1] != "'":
        raise ValueError(f"the default of policy variable '${{{body}}}' is not quoted")
    return Variable(folded(name), default[1:-1])


def variable_keys(tokens: Sequence[Token]) -> frozenset[str]:
    """Return the context keys that the tokens refer to."""
    return frozenset(token.key for token in tokens if isinstance(token, Variable))


def resolve(tokens: Sequence[Token], context: Context) -> tuple[Token, ...] | None:
    """Put the request's values in place of the variables; None if a variable has no single value."""
    resolved: list[Token] = []
    for token in tokens:
        if not isinstance(token, Variable):
            resolved.append(token)
            continue
        values = context.get(token.key, ())
        if len(values) == 1:
            resolved.append(Literal(values[0]))
        elif not values and token.default is not None:
            resolved.append(Literal(token.default))
        else:
            return None
    return tuple(resolved)


def exact(tokens: Sequence[Token]) -> str:
    """Return the text of resolved tokens, for operators in which wildcards have no meaning."""
    return "".join(token.text for token in tokens if not isinstance(token, Variable))


def compile_glob(tokens: Sequence[Token]) -> Matcher:
    """Return a predicate for resolved tokens."""
    segments: list[str] = [""]
    has_question = False
    for token in tokens:
        if isinstance(token, Variable):
            raise TypeError("resolve the variables before compiling")
        if isinstance(token, Literal):
            segments[-1] += re.escape(token.text)
            continue
        first, *rest = token.text.split("*")
        segments[-1] += re.escape(first).replace(r"\?", ".")
        segments += [re.escape(part).replace(r"\?", ".") for part in rest]
        has_question = has_question or "?" in token.text
    if len(segments) == 1:
        return exact(tokens).__eq__ if not has_question else _full(segments[0])
    return _segments(segments)


def _full(pattern: str) -> Matcher:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda value: compiled.fullmatch(value) is not None


def _segments(patterns: Sequence[str]) -> Matcher:
    """Match segments with stars between them: leftmost first, which is enough and never backtracks."""
    head, *between, tail = (re.compile(pattern, re.DOTALL) for pattern in patterns)
    middle = [segment for segment in between if segment.pattern]
    # A segment has no star, so that every match of it has the same length.
    tail_length = _length(patterns[-1])

    def matches(value: str) -> bool:
        begin = head.match(value)
        if begin is None:
            return False
        position = begin.end()
        for segment in middle:
            found = segment.search(value, position)
            if found is None:
                return False
            position = found.end()
        start = len(value) - tail_length
        return start >= position and tail.fullmatch(value, start) is not None

    return matches


def _length(escaped: str) -> int:
    return len(re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL))

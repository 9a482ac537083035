"""ARN patterns: six parts between colons, each matched on its own, so that no wildcard spans a colon."""

from collections.abc import Sequence
from typing import Final

from kmsfs.keystore.policy.patterns import Literal, Matcher, Token, Variable, Wild, compile_glob

_PARTS: Final = 6


def compile_arn(tokens: Sequence[Token]) -> Matcher:
    """Return a predicate for resolved tokens; raise ValueError if they cannot be an ARN."""
    if list(tokens) == [Wild("*")]:
        return lambda value: True
    parts = _split(tokens)
    if len(parts) != _PARTS:
        raise ValueError(f"{_shown(tokens)!r} is not an ARN")
    matchers = [compile_glob(part) for part in parts]

    def matches(value: str) -> bool:
        pieces = value.split(":", _PARTS - 1)
        return len(pieces) == _PARTS and all(
            matcher(piece) for matcher, piece in zip(matchers, pieces, strict=True)
        )

    return matches


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if isinstance(token, Variable):
            parts[-1].append(token)
            continue
        pieces = token.text.split(":", _PARTS - len(parts))
        kind = type(token)
        parts[-1].append(kind(pieces[0]))
        parts += [[kind(piece)] for piece in pieces[1:]]
    return parts


def _shown(tokens: Sequence[Token]) -> str:
    return "".join(
        token.text if isinstance(token, Literal | Wild) else f"${{{token.key}}}" for token in tokens
    )


def check_arn(tokens: Sequence[Token]) -> None:
    """Raise ValueError unless the tokens, variables included, have the shape of an ARN or are ``*``."""
    if list(tokens) == [Wild("*")]:
        return
    parts = _split(tokens)
    first = parts[0][0] if parts[0] else None
    # A variable may bring its own colons, so that only the literal prefix can be judged now.
    whole = len(parts) == _PARTS or any(isinstance(token, Variable) for token in tokens)
    if not whole or not isinstance(first, Wild) or not first.text.startswith(("arn", "*")):
        raise ValueError(f"{_shown(tokens)!r} is not an ARN")

"""JSON 1.1: requests in, answers out.

Pure. The server verifies the signature first and calls ``parse_request`` with the bytes that were signed.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from kmsfs.api.actions import ACTIONS, UNSUPPORTED
from kmsfs.api.refusal import Refusal
from kmsfs.api.rules import check_rules
from kmsfs.api.shapes import malformed

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
TARGET_PREFIX: Final = "TrentService."


@dataclass(frozen=True, slots=True)
class Call:
    """One request that may be carried out: the action, and its validated parameters."""

    action: str
    parameters: Mapping[str, object]


def parse_request(target: str, content_type: str, body: bytes) -> Call:
    """Parse and validate a request; raise Refusal."""
    if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise Refusal("UnknownOperationException", f"The content type must be {CONTENT_TYPE}.")
    action = target.removeprefix(TARGET_PREFIX)
    if action == target or (action not in ACTIONS and action not in UNSUPPORTED):
        raise Refusal("UnknownOperationException", "")
    if action in UNSUPPORTED:
        raise Refusal("UnsupportedOperationException", f"{action} is not supported.")
    problems: list[str] = []
    parameters = ACTIONS[action].read(_json(body), "", problems)
    if not problems:
        check_rules(action, parameters, problems)
    if problems:
        raise validation_error(problems)
    return Call(action, parameters)


def validation_error(problems: Sequence[str]) -> Refusal:
    """Return AWS's refusal of one or more violated constraints."""
    count = f"{len(problems)} validation error{'' if len(problems) == 1 else 's'} detected"
    return Refusal("ValidationException", f"{count}: {'; '.join(problems)}")


def render_answer(output: Mapping[str, object] | None) -> bytes:
    """Return the body of an answer; actions without output have an empty one."""
    return b"" if output is None else _dump(_in_milliseconds(output))


def render_refusal(refusal: Refusal) -> bytes:
    """Return the body of an error; AWS spells one message with a capital, and leaves empty ones out."""
    member = "Message" if refusal.code == "AccessDeniedException" else "message"
    told = {member: refusal.message} if refusal.message else {}
    return _dump({"__type": refusal.code, **told})


def _json(body: bytes) -> object:
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # The parser's own words may quote the body, and the body may hold a plaintext.
        malformed("The request body is not JSON")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _in_milliseconds(value: object) -> object:
    """Return part of an answer with its moments as AWS tells them; nothing else in an answer is a float."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {name: _in_milliseconds(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_in_milliseconds(member) for member in value]
    return value


def _dump(output: object) -> bytes:
    return json.dumps(output, default=_wire_value, separators=(",", ":"), allow_nan=False).encode()


def _wire_value(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return round(value.timestamp(), 3)
    raise TypeError(f"{type(value).__name__} has no form on the wire")

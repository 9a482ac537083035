"""What is said over a mount's control socket: one JSON object a line, one request and one answer a connection.

Pure, but for the errors that an answer carries from one process to another.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any, Final

from kmsfs import errors
from kmsfs.errors import FormatError, KmsfsError
from kmsfs.tree.directories import is_entry

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FRAME: Final = 4 << 20


def pack(message: Mapping[str, object]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def parse(line: bytes) -> dict[str, Any]:
    """The object on a line, or FormatError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise FormatError("control message is not JSON") from None
    if not isinstance(message, dict):
        raise FormatError("control message is not a JSON object")
    return message


def member(message: Mapping[str, Any], name: str, kind: type) -> Any:
    """A member of a message, of exactly one type; FormatError if it is not there or of another."""
    value = message.get(name)
    if type(value) is not kind:
        raise FormatError(f"control message has no {name} of type {kind.__name__}")
    return value


def binary(message: Mapping[str, Any], name: str) -> bytes:
    """A member that holds bytes, in base64."""
    try:
        return base64.b64decode(member(message, name, str), validate=True)
    except ValueError:
        raise FormatError(f"control message has no {name} in base64") from None


def entry_path(text: str) -> list[bytes]:
    """The backing entries on the way from the tree's root; FormatError for anything but entries of a tree."""
    try:
        parts = [os.fsencode(part) for part in text.split("/")] if text else []
    except UnicodeEncodeError:
        raise FormatError("path is no text that a file system knows") from None
    if not all(part and b"\0" not in part and is_entry(part) for part in parts):
        raise FormatError("path is not made of entries of a tree")
    return parts


def failure(error: Exception) -> dict[str, object]:
    """The answer that carries an error. What is neither of kmsfs nor of the system says nothing but that it was."""
    if isinstance(error, KmsfsError):
        told: dict[str, object] = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    elif isinstance(error, OSError):
        told = {"kind": "OSError", "errno": error.errno or 0}
    else:
        told = {"kind": "KmsfsError", "message": "the mount has failed: see its log", "hint": ""}
    return {"error": told}


def result(answer: Mapping[str, Any]) -> Any:
    """What an answer carries; raises the error if it is one."""
    if "error" not in answer:
        return answer.get("result")
    told = answer["error"]
    if told["kind"] == "OSError":
        raise OSError(told["errno"], os.strerror(told["errno"]))
    kind = getattr(errors, told["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, KmsfsError)):
        kind = KmsfsError  # of a mount that is newer than this program
    raise kind(told["message"], hint=told["hint"])

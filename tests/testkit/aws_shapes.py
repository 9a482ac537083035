"""Holds answers on the wire against the output shapes of AWS's service model.

boto3 reads what it knows and passes over the rest; here a member that is missing, unknown or of the wrong form
is an error.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from botocore.loaders import Loader

MODEL: Final = Loader().load_service_model("kms", "service-2", "2014-11-01")


def output_problems(action: str, body: bytes) -> list[str]:
    """Return what is wrong with the body of a good answer."""
    output = MODEL["operations"][action].get("output")
    if output is None:
        return [] if body == b"" else [f"{action} has no output, but answers {body[:40]!r}"]
    return list(_problems(output["shape"], json.loads(body), action))


def check_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Check every good answer of a boto3 client: to be registered for ``before-parse.kms``."""
    if response_dict["status_code"] == 200:
        assert output_problems(operation_model.name, response_dict["body"]) == []


def _problems(name: str, value: object, path: str) -> Iterator[str]:
    shape = MODEL["shapes"][name]
    kind, check = _KINDS[shape["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        yield f"{path} is {type(value).__name__}, not {shape['type']}"
        return
    yield from check(shape, value, path)


def _structure(shape: Any, value: dict[str, object], path: str) -> Iterator[str]:
    yield from (f"{path}.{name} is missing" for name in shape.get("required", ()) if name not in value)
    for name, member in value.items():
        if name in shape["members"]:
            yield from _problems(shape["members"][name]["shape"], member, f"{path}.{name}")
        else:
            yield f"{path}.{name} is unknown"


def _list(shape: Any, value: list[object], path: str) -> Iterator[str]:
    yield from _bounds(shape, len(value), path)
    for place, member in enumerate(value):
        yield from _problems(shape["member"]["shape"], member, f"{path}[{place}]")


def _map(shape: Any, value: dict[str, object], path: str) -> Iterator[str]:
    for name, member in value.items():
        yield from _problems(shape["key"]["shape"], name, path)
        yield from _problems(shape["value"]["shape"], member, f"{path}[{name}]")


def _string(shape: Any, value: str, path: str) -> Iterator[str]:
    yield from _bounds(shape, len(value), path)
    if "enum" in shape and value not in shape["enum"]:
        yield f"{path} is {value}, none of {shape['enum']}"
    # re.ASCII: the patterns are Java's
    if "pattern" in shape and not re.fullmatch(shape["pattern"], value, re.ASCII):
        yield f"{path} does not match {shape['pattern']}"


def _blob(shape: Any, value: str, path: str) -> Iterator[str]:
    try:
        yield from _bounds(shape, len(base64.b64decode(value, validate=True)), path)
    except binascii.Error:
        yield f"{path} is not base64"


def _number(shape: Any, value: float, path: str) -> Iterator[str]:
    yield from _bounds(shape, value, path)


def _bounds(shape: Any, size: float, path: str) -> Iterator[str]:
    if not shape.get("min", size) <= size <= shape.get("max", size):
        yield f"{path} is of size {size}, not {shape.get('min')} to {shape.get('max')}"


_KINDS: Final[dict[str, tuple[Any, Callable[..., Iterator[str]]]]] = {
    "structure": (dict, _structure),
    "list": (list, _list),
    "map": (dict, _map),
    "string": (str, _string),
    "blob": (str, _blob),
    "integer": (int, _number),
    "boolean": (bool, _number),
    "timestamp": ((int, float), _number),
}

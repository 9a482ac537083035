"""Lists in pages. A marker names the last item shown, so it holds even when that item is deleted meanwhile."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kmsfs.api.refusal import Refusal

T = TypeVar("T")


def page(
    items: Sequence[T],
    place: Callable[[T], list[object]],
    parameters: Mapping[str, object],
    *,
    default: int,
    scope: str = "",
) -> tuple[Sequence[T], dict[str, object]]:
    """Return the items of one page, and the members of the answer that say whether there are more.

    ``items`` are sorted by ``place``; ``scope`` is the filter that a marker is good for.
    """
    limit = parameters.get("Limit", default)
    assert isinstance(limit, int)  # noqa: S101 - the shape has seen to it
    after = _read(str(parameters["Marker"]), scope) if "Marker" in parameters else None
    try:
        left = [item for item in items if after is None or place(item) > after]
    except TypeError:
        raise _invalid() from None
    if len(left) <= limit:
        return left, {"Truncated": False}
    shown = left[:limit]
    return shown, {"Truncated": True, "NextMarker": _write(place(shown[-1]), scope)}


def _write(place: list[object], scope: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([scope, place]).encode()).decode()


def _read(marker: str, scope: str) -> list[object]:
    try:
        found = json.loads(base64.urlsafe_b64decode(marker.encode("ascii")))
    except (ValueError, RecursionError):
        raise _invalid() from None
    if not isinstance(found, list) or len(found) != 2 or found[0] != scope or not isinstance(found[1], list):
        raise _invalid()
    return found[1]


def _invalid() -> Refusal:
    return Refusal("InvalidMarkerException", "The marker is not valid.")

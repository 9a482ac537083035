"""Mutated requests: refused as AWS would, never accepted, never a failure of ours.

A request that the verifier accepts must be the signed one: same body, same signed headers. One that then
parses has only values of the model's types; everything else is a Refusal with status 400.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from testkit.aws_signing import ACCESS_KEY_ID, NOW, SECRET, Headers, signed_headers
from testkit.mutations import Edits, changed_requests, edited, edits, good_requests

from kmsfs.api.actions import ACTIONS
from kmsfs.api.refusal import Refusal
from kmsfs.api.sigv4 import Credential, Verifier
from kmsfs.api.wire import Call, parse_request, render_refusal

KEY = "01234567-89ab-cdef-0123-456789abcdef"
REQUESTS = good_requests(KEY, KEY, "eA==")
SIGNED = {b"host", b"content-type", b"x-amz-date", b"x-amz-target"}
NAMES = [*SIGNED, b"authorization", b"x-amz-content-sha256", b"x-amz-security-token", b"x-other", b"date"]

Change = Callable[[Headers], Headers]

positions = st.integers(0, 4)


def change_value(position: int, changes: Edits) -> Change:
    return lambda headers: [
        (name, edited(value, changes) if at == position else value)
        for at, (name, value) in enumerate(headers)
    ]


def rename(position: int, name: bytes) -> Change:
    return lambda headers: [
        (name if at == position else old, value) for at, (old, value) in enumerate(headers)
    ]


def swap(one: int, other: int) -> Change:
    def change(headers: Headers) -> Headers:
        if max(one, other) >= len(headers):
            return headers
        values = [value for _, value in headers]
        values[one], values[other] = values[other], values[one]
        return [(name, value) for (name, _), value in zip(headers, values, strict=True)]

    return change


HEADER_CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(change_value, positions, edits),
    st.builds(rename, positions, st.sampled_from(NAMES)),
    st.builds(swap, positions, positions),
    positions.map(lambda at: lambda headers: headers[:at] + headers[at + 1 :]),
    positions.map(lambda at: lambda headers: [*headers, *headers[at : at + 1]]),
    st.tuples(st.sampled_from(NAMES), st.binary(max_size=64)).map(
        lambda new: lambda headers: [*headers, new]
    ),
    st.sampled_from(sorted(ACTIONS)).map(
        lambda action: (
            lambda headers: [
                (name, b"TrentService." + action.encode() if name == b"x-amz-target" else value)
                for name, value in headers
            ]
        )
    ),
)


def verifier() -> Verifier:
    credential = Credential(ACCESS_KEY_ID, SECRET.encode())
    return Verifier(lambda name, _: credential if name == ACCESS_KEY_ID else None)


@lru_cache
def signed(action: str) -> tuple[Headers, bytes]:
    body = json.dumps(REQUESTS[action]).encode()
    return signed_headers(body, target=f"TrentService.{action}"), body


def what_is_signed(headers: Headers, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return sorted((name, b" ".join(value.split())) for name, value in headers if name in SIGNED), body


@given(st.sampled_from(sorted(ACTIONS)), st.lists(HEADER_CHANGES, max_size=3), edits)
def test_only_the_signed_request_is_accepted(action: str, changes: list[Change], body_edits: Edits) -> None:
    good, good_body = signed(action)
    headers, body = good, edited(good_body, body_edits)
    for change in changes:
        headers = change(headers)
    try:
        verifier().verify(headers, body, now=NOW)
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017
        assert SECRET.encode() not in render_refusal(refusal)  # noqa: PT017
        assert changes or body_edits
    else:
        assert what_is_signed(headers, body) == what_is_signed(good, good_body)


def typed(value: Any) -> bool:
    """Whether a value has been read: what JSON alone knows is no longer there."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and typed(inner) for name, inner in value.items())
    if isinstance(value, list):
        return all(map(typed, value))
    return value is not None and not isinstance(value, float)


@given(changed_requests(REQUESTS), st.just([]) | edits)
def test_a_damaged_body_is_read_or_refused(request: tuple[str, bytes], body_edits: Edits) -> None:
    action, body = request
    try:
        call = parse_request(f"TrentService.{action}", "application/x-amz-json-1.1", edited(body, body_edits))
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017
        assert render_refusal(refusal)  # noqa: PT017
        event(refusal.code)
    else:
        event("read")
        assert isinstance(call, Call)
        assert typed(dict(call.parameters))


def test_every_action_is_mutated() -> None:
    assert set(REQUESTS) == set(ACTIONS)


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_what_is_mutated_is_good(action: str) -> None:
    """Mutations of what is refused anyway would not reach far."""
    headers, body = signed(action)
    verifier().verify(headers, body, now=NOW)
    assert parse_request(f"TrentService.{action}", "application/x-amz-json-1.1", body).action == action

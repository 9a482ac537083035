"""Mutated requests on a socket: none is answered with a failure of ours, and none changes anything."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testkit.aws_signing import signed_headers
from testkit.home import REGION, make_home
from testkit.serving import Serving, serving

EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(make_home(tmp_path_factory.mktemp("fuzzed") / "home")) as running:
        yield running


def whole_request(served: Serving) -> bytes:
    body = json.dumps({"AliasName": "alias/never", "TargetKeyId": "alias/files"}).encode()
    headers = signed_headers(
        body,
        target="TrentService.CreateAlias",
        region=REGION,
        when=datetime.now(UTC),
        access_key_id=served.access_key_id,
        secret=served.secret,
    )
    lines = [b"POST / HTTP/1.1", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS)
def test_no_mutation_is_a_failure_of_ours(served: Serving, edits: list[tuple[int, int, bytes]]) -> None:
    request = whole_request(served)
    for position, length, replacement in edits:
        at = position % len(request)
        request = request[:at] + replacement + request[at + length :]
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    statuses = [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert all(status < 500 for status in statuses), (request, answer)


def test_the_server_still_works_and_nothing_was_changed(served: Serving) -> None:
    client = served.client(REGION)
    assert [alias["AliasName"] for alias in client.list_aliases()["Aliases"]] == ["alias/files"]
    assert served.stop() == 0

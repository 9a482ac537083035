"""Mutated requests on a socket: none is answered with a failure of ours, and a stranger's changes nothing."""

import http.client
import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from testkit.aws_signing import signed_headers
from testkit.home import REGION, make_home
from testkit.mutations import CONTEXT, changed_requests, good_requests
from testkit.serving import Serving, serving

EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)
#: What stands for the ids of the server's keys, and a blob of it, while examples are made.
KEY, SPARE, BLOB = "01234567-89ab-cdef-0123-000000000001", "01234567-89ab-cdef-0123-000000000002", "QkxPQg=="
NOBODY = json.dumps({"AliasName": "alias/never", "TargetKeyId": KEY}).encode()


@dataclass
class Target:
    """The server, a kept connection to it, and what its keys are."""

    served: Serving
    connection: http.client.HTTPConnection
    names: dict[str, str]

    def head(self, action: str, body: bytes) -> list[tuple[bytes, bytes]]:
        return signed_headers(
            body,
            target=f"TrentService.{action}",
            region=REGION,
            when=datetime.now(UTC),
            access_key_id=self.served.access_key_id,
            secret=self.served.secret,
        )


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with serving(make_home(tmp_path_factory.mktemp("fuzzed") / "home")) as running:
        client = running.client(REGION)
        key, spare = (client.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
        blob = client.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        yield Target(running, connection, {KEY: key, SPARE: spare, BLOB: b64encode(blob).decode()})
        connection.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS)
def test_no_mutation_is_a_failure_of_ours(target: Target, edits: list[tuple[int, int, bytes]]) -> None:
    """Damage anywhere in a request whose signature was good; what it asks for, it could not get."""
    lines = [
        b"POST / HTTP/1.1",
        *(name + b": " + value for name, value in target.head("CreateAlias", NOBODY)),
    ]
    request = b"\r\n".join([*lines, b"Content-Length: %d" % len(NOBODY), b"", b""]) + NOBODY
    for position, length, replacement in edits:
        at = position % len(request)
        request = request[:at] + replacement + request[at + length :]
    with socket.create_connection(("127.0.0.1", target.served.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    statuses = [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    refused = (*range(400, 500), 505)  # 505: of an HTTP version that there is not
    assert all(status in refused for status in statuses), (request, answer)
    if b"NotFoundException" in answer:  # it was let through
        assert NOBODY in request


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed_requests(good_requests(KEY, SPARE, BLOB)))
def test_no_signed_request_is_a_failure_of_ours(target: Target, request: tuple[str, bytes]) -> None:
    """Every action, with the signature of the account's root over whatever it asks for."""
    action, body = request
    for name, real in target.names.items():
        body = body.replace(name.encode(), real.encode())
    headers = {name.decode(): value.decode() for name, value in target.head(action, body)}
    target.connection.request("POST", "/", body, headers)
    answer = target.connection.getresponse()
    content = json.loads(answer.read() or b"{}")
    assert answer.status in (200, 400, 412), (action, body, content)
    assert ("__type" in content) == (answer.status != 200), (action, body, content)
    event(content.get("__type", "done"))


def test_the_server_still_works_and_the_stranger_changed_nothing(target: Target) -> None:
    client = target.served.client(REGION)
    aliases = [
        alias["AliasName"]
        for page in client.get_paginator("list_aliases").paginate()
        for alias in page["Aliases"]
    ]
    assert "alias/files" in aliases
    assert "alias/never" not in aliases
    blob = client.encrypt(KeyId="alias/files", Plaintext=b"x")["CiphertextBlob"]
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert target.served.stop() == 0

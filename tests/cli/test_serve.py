"""``kmsfs serve`` as its operator sees it: where it listens, its certificate, and how it ends."""

import errno
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from testkit.certificates import make_certificate
from testkit.home import Home, refused
from testkit.raw_http import Answers, connect, head, signed
from testkit.serving import Serving, serving
from testkit.waiting import await_true

EU = "eu-west-1"
BODY = b"{}"


def listens(served: Serving) -> bool:
    try:
        connect(served).close()
    except ConnectionRefusedError:
        return False
    return True


def told(served: Serving, number: signal.Signals) -> None:
    served.process.send_signal(number)
    await_true(lambda: not listens(served))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_its_idle_clients(home: Home, number: signal.Signals) -> None:
    with serving(home) as served, connect(served) as idle:
        assert served.client(EU).list_keys()["Keys"]
        told(served, number)
        assert idle.recv(1) == b""
        assert served.process.wait(30) == 0


def test_a_request_under_way_is_finished_first(home: Home) -> None:
    with serving(home) as served, connect(served) as connection:
        connection.sendall(head(signed(served, BODY), b"Content-Length: 2", b"Expect: 100-continue"))
        answers = Answers(connection)
        assert answers.next()[0] == 100
        told(served, signal.SIGTERM)
        connection.sendall(BODY)
        status, headers, _ = answers.next()
        assert (status, headers["connection"]) == (200, "close")
        assert served.process.wait(30) == 0


def test_told_twice_it_does_not_wait(home: Home) -> None:
    with serving(home) as served, connect(served) as connection:
        connection.sendall(head(signed(served, BODY), b"Content-Length: 2", b"Expect: 100-continue"))
        answers = Answers(connection)
        assert answers.next()[0] == 100
        told(served, signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)
        assert answers.rest() == b""
        assert served.process.wait(30) == 0


def test_a_port_that_is_taken(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(home.run("serve", "--bind", f"127.0.0.1:{port}"), 51)
    assert said.startswith(f"kmsfs: cannot listen on 127.0.0.1:{port}: address already in use\nhint: ")
    assert home.json("credential", "list")["AccessKeyMetadata"] == []  # none was made that nobody saw


def test_an_address_of_another_host(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    done = home.run("serve", "--bind", "203.0.113.9:7600", "--tls-cert", cert, "--tls-key", key)
    assert os.strerror(errno.EADDRNOTAVAIL).lower() in refused(done, 51)


@pytest.mark.parametrize(
    "bind", ["7600", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "host:1", "[::1:1", ""]
)
def test_a_bind_that_is_none(home: Home, bind: str) -> None:
    assert "is no address and port" in refused(home.run("serve", "--bind", bind), 2)


def test_beyond_this_host_only_with_tls(home: Home) -> None:
    assert "needs TLS" in refused(home.run("serve", "--bind", "0.0.0.0:0"), 2)


def test_no_region(empty_home: Home) -> None:
    assert "no region is configured" in refused(empty_home.run("serve"), 3)


def test_tls(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    options = ("--bind", "127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key))
    with serving(home, *options) as served:
        assert served.url.startswith("https://")
        assert served.client(EU, verify=str(cert)).list_keys()["Keys"]
        with connect(served) as plain:  # no TLS, no answer
            plain.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in Answers(plain).rest()
        assert served.client(EU, verify=str(cert)).list_keys()["Keys"]


def serve_tls(home: Home, cert: Path, key: Path) -> subprocess.CompletedProcess[str]:
    return home.run("serve", "--bind", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)


def test_certificates_that_are_none(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, foreign = make_certificate(tmp_path / "other")
    empty = tmp_path / "empty"
    empty.touch()
    said = "are no certificate and its key in PEM"
    for pair in ((cert, foreign), (cert, cert), (key, key), (empty, key), (cert, empty)):
        assert said in refused(serve_tls(home, *pair), 2)
    missing = tmp_path / "missing.pem"
    for pair in ((missing, key), (cert, missing)):
        assert refused(serve_tls(home, *pair), 1) == f"kmsfs: {missing}: no such file or directory\n"
    assert "is a directory" in refused(serve_tls(home, cert, tmp_path), 1)
    for lone in (("--tls-cert", cert), ("--tls-key", key)):
        assert "belong together" in refused(home.run("serve", *lone), 2)


def test_a_key_under_a_passphrase_is_refused_and_asks_nobody(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"of a test"),
        )
    )
    assert "is protected by a passphrase" in refused(serve_tls(home, cert, key), 2)

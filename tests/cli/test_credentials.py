"""Access keys on the command line, and what of them lies in the metadata."""

import pytest
from testkit.home import Home, refused


def test_create_list_delete(home: Home) -> None:
    made = home.json("credential", "create", "root")
    assert made["AccessKeyId"].startswith("AKIA")
    assert (len(made["AccessKeyId"]), len(made["SecretAccessKey"])) == (20, 40)
    (listed,) = home.json("credential", "list")["AccessKeyMetadata"]
    assert (listed["AccessKeyId"], listed["UserName"]) == (made["AccessKeyId"], "root")
    assert made["SecretAccessKey"] not in home.ok("credential", "list")
    home.ok("credential", "delete", made["AccessKeyId"])
    assert home.json("credential", "list") == {"AccessKeyMetadata": []}
    refused(home.run("credential", "delete", made["AccessKeyId"]), 3)


def test_the_metadata_do_not_yield_the_secret(home: Home) -> None:
    secret = home.json("credential", "create", "root")["SecretAccessKey"].encode()
    for file in home.path.glob("metadata.db*"):
        stored = file.read_bytes()
        assert secret not in stored
        assert secret.hex().encode() not in stored
    assert home.ailments() == []


@pytest.mark.parametrize(
    "options",
    [
        ("--bind", "0.0.0.0:7600"),
        ("--bind", "7600"),
        ("--bind", "127.0.0.1:70000"),
        ("--tls-cert", "only.pem"),
    ],
)
def test_serve_refuses(home: Home, options: tuple[str, str]) -> None:
    refused(home.run("serve", *options), 2)
    assert home.json("credential", "list") == {"AccessKeyMetadata": []}


def test_serve_needs_a_region(empty_home: Home) -> None:
    refused(empty_home.run("serve"), 3)

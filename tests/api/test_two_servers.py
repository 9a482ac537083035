"""Two ``kmsfs serve`` processes with one PostgreSQL database and one token, as on two hosts with a network HSM."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from testkit.home import Home
from testkit.postgres import Postgres, running_postgres
from testkit.serving import Serving, refused, serving
from testkit.tokens import make_softhsm, make_token
from testkit.waiting import await_true

from kmsfs.keystore.softhsm import find_module

US = "us-east-1"


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A server of the test's own, which may be stopped."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def servers(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Serving, Serving]]:
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    pin_file = make_token(conf, "own")
    url = database.url(database.new_database())
    homes = []
    for name in ("one", "two"):
        home = Home(tmp_path / name)
        home.path.mkdir(mode=0o700)
        (home.path / "config.json").write_text(json.dumps({"metadata_url": url}))
        home.ok("region", "add", US, "--module", find_module(), "--token", "own", "--pin-file", pin_file)
        homes.append(home)
    with ExitStack() as running:
        one = running.enter_context(serving(homes[0]))
        yield one, running.enter_context(serving(homes[1], first_key=(one.access_key_id, one.secret)))


@pytest.fixture
def clients(servers: tuple[Serving, Serving]) -> tuple[Any, Any]:
    return servers[0].client(US), servers[1].client(US)


def soon(call: Callable[[], object]) -> Any:
    """Return what a call answers, once it is no error any more."""
    answers: list[object] = []

    def works() -> bool:
        try:
            answers.append(call())
        except ClientError:
            return False
        return True

    await_true(works)
    return answers[-1]


def soon_refused(call: Callable[[], object], name: str) -> None:
    """Wait until a call is refused by that name."""

    def is_refused() -> bool:
        try:
            call()
        except ClientError as error:
            return error.response["Error"]["Code"] == name
        return False

    await_true(is_refused)


def test_what_one_does_the_other_sees(clients: tuple[Any, Any], servers: tuple[Serving, Serving]) -> None:
    one, two = clients
    key, other = (one.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    one.create_alias(AliasName="alias/a", TargetKeyId=key)
    made = soon(lambda: two.encrypt(KeyId="alias/a", Plaintext=b"text"))
    assert one.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == b"text"
    one.update_alias(AliasName="alias/a", TargetKeyId=other)
    await_true(lambda: two.encrypt(KeyId="alias/a", Plaintext=b"x")["KeyId"].endswith(other))
    one.disable_key(KeyId=key)
    soon_refused(lambda: two.decrypt(CiphertextBlob=made["CiphertextBlob"]), "DisabledException")
    two.enable_key(KeyId=key)
    assert soon(lambda: one.decrypt(CiphertextBlob=made["CiphertextBlob"]))["Plaintext"] == b"text"
    one.rotate_key_on_demand(KeyId=other)
    current = one.describe_key(KeyId=other)["KeyMetadata"]["CurrentKeyMaterialId"]
    await_true(lambda: two.describe_key(KeyId=other)["KeyMetadata"]["CurrentKeyMaterialId"] == current)


def test_users_policies_and_grants(clients: tuple[Any, Any], servers: tuple[Serving, Serving]) -> None:
    one = clients[0]
    key = one.create_key()["KeyMetadata"]
    servers[0].home.ok("user", "create", "alice")
    made = servers[0].home.json("credential", "create", "alice")
    alice = servers[1].client(US, access_key_id=made["AccessKeyId"], secret=made["SecretAccessKey"])
    soon_refused(lambda: alice.encrypt(KeyId=key["Arn"], Plaintext=b"x"), "AccessDeniedException")
    grantee = f"arn:aws:iam::{key['AWSAccountId']}:user/alice"
    grant = one.create_grant(KeyId=key["KeyId"], GranteePrincipal=grantee, Operations=["Encrypt"])
    assert soon(lambda: alice.encrypt(KeyId=key["Arn"], Plaintext=b"x"))["CiphertextBlob"]
    one.revoke_grant(KeyId=key["KeyId"], GrantId=grant["GrantId"])
    soon_refused(lambda: alice.encrypt(KeyId=key["Arn"], Plaintext=b"x"), "AccessDeniedException")
    policy = json.loads(one.get_key_policy(KeyId=key["KeyId"])["Policy"])
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": grantee},
        "Action": "kms:Encrypt",
        "Resource": "*",
    }
    wider = {**policy, "Statement": [*policy["Statement"], statement]}
    one.put_key_policy(KeyId=key["KeyId"], Policy=json.dumps(wider))
    assert soon(lambda: alice.encrypt(KeyId=key["Arn"], Plaintext=b"x"))["CiphertextBlob"]
    clients[1].put_key_policy(KeyId=key["KeyId"], Policy=json.dumps(policy))
    elsewhere = servers[0].client(US, access_key_id=made["AccessKeyId"], secret=made["SecretAccessKey"])
    soon_refused(lambda: elsewhere.encrypt(KeyId=key["Arn"], Plaintext=b"x"), "AccessDeniedException")
    servers[0].home.ok("credential", "delete", made["AccessKeyId"])
    soon_refused(lambda: alice.list_keys(), "UnrecognizedClientException")


def test_one_of_two_creations_of_an_alias_wins(clients: tuple[Any, Any]) -> None:
    keys = [client.create_key()["KeyMetadata"]["KeyId"] for client in clients]

    def create(at: int) -> str:
        try:
            clients[at % 2].create_alias(AliasName=f"alias/{at // 2}", TargetKeyId=keys[at % 2])
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "made"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(create, range(20)))
    for attempt in range(10):
        assert sorted(outcomes[2 * attempt : 2 * attempt + 2]) == ["AlreadyExistsException", "made"]
        winner = keys[outcomes[2 * attempt : 2 * attempt + 2].index("made")]
        for client in clients:
            assert client.describe_key(KeyId=f"alias/{attempt}")["KeyMetadata"]["KeyId"] == winner


def test_a_database_that_goes_away_and_comes_back(clients: tuple[Any, Any], database: Postgres) -> None:
    one, two = clients
    key = one.create_key()["KeyMetadata"]["KeyId"]
    soon(lambda: two.describe_key(KeyId=key))
    database.stop()
    try:
        code, _ = refused(lambda: two.create_alias(AliasName="alias/a", TargetKeyId=key))
        assert code == "DependencyTimeoutException"
        # Whether the key may still be used, nobody can tell now.
        soon_refused(lambda: one.encrypt(KeyId=key, Plaintext=b"x"), "DependencyTimeoutException")
    finally:
        database.start()
    soon(lambda: two.create_alias(AliasName="alias/b", TargetKeyId=key))
    assert soon(lambda: one.encrypt(KeyId="alias/b", Plaintext=b"x"))["CiphertextBlob"]
    two.disable_key(KeyId=key)
    soon_refused(lambda: one.encrypt(KeyId=key, Plaintext=b"x"), "DisabledException")

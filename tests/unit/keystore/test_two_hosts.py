"""Two homes with one PostgreSQL database and one token, as on two hosts with a network HSM."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testkit.postgres import Postgres

from kmsfs.errors import AlreadyExistsError, KeyDisabledError
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.softhsm import find_module
from kmsfs.keystore.uses import FIRST_BLOCK

US = "us-east-1"


@pytest.fixture
def hosts(postgres: Postgres, own_token: Path, tmp_path: Path) -> Iterator[tuple[Keystore, Keystore]]:
    url = postgres.url(postgres.new_database())
    opened = []
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir(mode=0o700)
        (home / "config.json").write_text(json.dumps({"metadata_url": url}))
        opened.append(Keystore.open(home))
        opened[-1].add_region(US, module=find_module(), token_label="own", pin_file=own_token)
        assert not (home / "metadata.db").exists()
    yield opened[0], opened[1]
    for keystore in opened:
        keystore.close()


def test_what_one_disables_the_other_refuses(hosts: tuple[Keystore, Keystore]) -> None:
    one, two = hosts
    one.create_key(US, alias="alias/a")
    two.refresh()
    blob = two.encrypt("alias/a", b"text", {}).blob
    assert one.decrypt(blob, {}).plaintext == b"text"
    one.disable_key("alias/a")
    assert two.refresh()
    with pytest.raises(KeyDisabledError):
        two.decrypt(blob, {})


def test_what_one_rotates_the_other_reads(hosts: tuple[Keystore, Keystore]) -> None:
    one, two = hosts
    one.create_key(US, alias="alias/a")
    two.refresh()
    before = two.encrypt("alias/a", b"before", {}).blob
    one.rotate_key("alias/a")
    after = one.encrypt("alias/a", b"after", {}).blob
    two.refresh()
    assert two.decrypt(after, {}).plaintext == b"after"
    assert two.decrypt(before, {}).plaintext == b"before"


def test_one_of_two_creations_of_an_alias_wins(hosts: tuple[Keystore, Keystore]) -> None:
    def create(keystore: Keystore) -> bool:
        try:
            keystore.create_key(US, alias="alias/same")
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(create, hosts)) == [False, True]
    for keystore in hosts:
        keystore.refresh()
    assert len({keystore.resolve("alias/same").key_id for keystore in hosts}) == 1


def test_uses_are_counted_for_both(hosts: tuple[Keystore, Keystore]) -> None:
    one, two = hosts
    one.create_key(US, alias="alias/a")
    two.refresh()

    def use(keystore: Keystore) -> None:
        for _ in range(FIRST_BLOCK + 1):
            keystore.encrypt("alias/a", b"x", {})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(use, hosts))
    snapshot = one._service(US).ledger.reload()
    (reserved,) = snapshot.uses_reserved.values()
    assert reserved == 2 * (FIRST_BLOCK + 4 * FIRST_BLOCK)


def test_one_key_pair_signs_the_reports_of_both(hosts: tuple[Keystore, Keystore]) -> None:
    with ThreadPoolExecutor(2) as threads:
        keys = list(threads.map(lambda keystore: keystore.report_key(US), hosts))
    assert keys[0] == keys[1]


def test_rows_of_every_kind_fit(hosts: tuple[Keystore, Keystore]) -> None:
    one, two = hosts
    key = one.create_key(US, alias="alias/" + "a" * 250).arn
    one.tag_key(key, [("t" * 128, "v" * 256)])
    one.principals.create("u" * 64)
    one.credentials.create("u" * 64)
    two.refresh()
    assert two.resolve("alias/" + "a" * 250).arn == key
    assert all(finding.ok for finding in two.check())

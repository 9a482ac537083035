"""docs/keystore.md shows the limits and states that the code has."""

import re
from hashlib import sha256
from pathlib import Path

from kmsfs.ids import KeyId, Region
from kmsfs.keystore import access, administration, aliases, lifecycle, rotation, tags
from kmsfs.keystore.audit import audit_key_id
from kmsfs.keystore.region import integrity_key_id, report_key_id
from kmsfs.keystore.rows import CONDEMNED, DELETED
from kmsfs.keystore.sealing import CREDENTIAL_KEY, IMPORT_KEY, sharing_key

PAGE = (Path(__file__).parents[3] / "docs" / "keystore.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """The first two cells of the table that follows a heading or a table's head."""
    table = PAGE.split(heading, 1)[1].split("\n\n", 1)[0]
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE))


def test_the_limits() -> None:
    shown = [
        tuple(map(int, re.findall(r"\d+", value.replace(",", ""))))
        for value in rows("| limit | value |\n").values()
    ]
    assert shown == [
        (lifecycle.MIN_WINDOW_DAYS, lifecycle.MAX_WINDOW_DAYS, lifecycle.MAX_WINDOW_DAYS),
        (rotation.MIN_PERIOD_DAYS, rotation.MAX_PERIOD_DAYS, rotation.DEFAULT_PERIOD_DAYS),
        (rotation.MANAGED_PERIOD_DAYS,),
        (rotation.MAX_ON_DEMAND,),
        (lifecycle.MAX_KEYS,),
        (aliases.MAX_ALIASES,),
        (access.MAX_GRANTS,),
        (tags.MAX_TAGS,),
        (tags.MAX_NAME_LENGTH, tags.MAX_VALUE_LENGTH),
        (administration.MAX_DESCRIPTION_LENGTH,),
    ]


def test_the_steps_of_a_deletion() -> None:
    steps = list(rows("| step | what is committed | until the next step |\n").values())
    for step, state in zip(steps, ("PendingDeletion", CONDEMNED, DELETED), strict=True):
        assert f"`{state}`" in step


def test_the_owned_keys_are_in_the_table_of_objects() -> None:
    """The page gives the text that each id is the hash of."""
    named = re.findall(r'SHA-256\(`"([a-zA-Z -]+)"` ', PAGE)
    region = Region("eu-west-1")
    ids = {sha256(f"{name}\0{region}".encode()).digest() for name in named}
    sealing = {key.object_id(region) for key in (CREDENTIAL_KEY, IMPORT_KEY, sharing_key(KeyId("KEYID")))}
    assert ids == {integrity_key_id(region), audit_key_id(region), report_key_id(region), *sealing}

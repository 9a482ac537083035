"""The register of trees: what it warns of, and that nothing else depends on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.audits import records

from kmsfs.errors import KeyInUseError, KeyPendingDeletionError, MetadataUnavailableError
from kmsfs.ids import TreeId
from kmsfs.keystore.known_trees import KnownTree, known_trees, note_tree, trees_path
from kmsfs.keystore.model import KeyMetadata, KeyState
from kmsfs.keystore.service import Keystore

US = "us-east-1"
MAIN = "alias/main"
TREE = TreeId(b"t" * 16)


@pytest.fixture
def key(keystore: Keystore) -> KeyMetadata:
    return keystore.resolve(MAIN, region=US)


def damaged(home: Path) -> None:
    trees_path(home).write_text("{")


def unknown(home: Path) -> None:
    trees_path(home).write_text('{"trees": [{"kind": "tree"}]}')


def wrong_keys(home: Path) -> None:
    trees_path(home).write_text(
        '{"trees": [{"kind": "tree", "tree_id": "", "path": "", "key_arns": "arn:aws:kms"}]}'
    )


def nested(home: Path) -> None:
    trees_path(home).write_text("[" * 100_000)


def unreadable(home: Path) -> None:
    trees_path(home).mkdir()


BROKEN = [damaged, unknown, wrong_keys, nested, unreadable]


def scheduled(home: Path) -> list[dict[str, str]]:
    return [found["details"] for found in records(home, US) if found["action"] == "ScheduleKeyDeletion"]


def test_trees_and_backups_are_named(keystore: Keystore, key: KeyMetadata, tmp_path: Path) -> None:
    keystore.note_tree(TREE, tmp_path / "tree", [key.arn])
    note_tree(keystore.home, TREE, tmp_path / "copy", [key.arn], "backup")
    with pytest.raises(KeyInUseError) as caught:
        keystore.schedule_key_deletion(key.arn)
    named = f"tree {tmp_path}/tree, backup {tmp_path}/copy"
    assert str(caught.value) == f"key {key.arn} is in use: {named}"
    keystore.schedule_key_deletion(key.arn, force=True, days=7)
    keystore.close()
    assert scheduled(keystore.home) == [
        {"days": "30", "loss": named, "override": "none"},
        {"days": "7", "loss": named, "override": "force"},
    ]


def test_the_tag_that_overrides_is_recorded(keystore: Keystore, key: KeyMetadata, tmp_path: Path) -> None:
    keystore.note_tree(TREE, tmp_path / "tree", [key.arn])
    keystore.tag_key(key.arn, [("kmsfs:allow-deletion", "yes")])
    keystore.schedule_key_deletion(key.arn)
    assert scheduled(keystore.home)[0]["override"] == "tag"


def test_a_message_names_the_first_of_many(keystore: Keystore, key: KeyMetadata) -> None:
    for number in range(7):
        keystore.note_tree(TREE, Path(f"/srv/{number}"), [key.arn])
    with pytest.raises(KeyInUseError, match=r"tree /srv/0, .*, tree /srv/4 and 2 more$"):
        keystore.schedule_key_deletion(key.arn)


def test_keys_that_no_tree_has_are_deleted_without_force(keystore: Keystore, key: KeyMetadata) -> None:
    keystore.note_tree(TREE, Path("/srv/tree"), ["arn:aws:kms:us-east-1:000000000000:key/other"])
    assert keystore.schedule_key_deletion(key.arn).state is KeyState.PENDING_DELETION
    assert scheduled(keystore.home) == [{"days": "30"}]
    keystore.note_tree(TREE, Path("/srv/tree"), [key.arn])
    with pytest.raises(KeyPendingDeletionError):
        keystore.schedule_key_deletion(key.arn)


def test_a_tree_is_entered_once_and_anew(keystore: Keystore) -> None:
    for arns in (["b", "a", "b"], ["a", "b"], ["c"]):
        keystore.note_tree(TREE, Path("/srv/tree"), arns)
    assert known_trees(keystore.home) == [KnownTree("tree", TREE.hex(), "/srv/tree", ("c",))]
    keystore.note_tree(TREE, Path("/srv/copy"), ["x"])
    keystore.note_tree(TREE, Path("/srv/tree"), ["a"], besides=True)
    assert {tree.path: tree.key_arns for tree in known_trees(keystore.home)} == {
        "/srv/tree": ("a", "c"),
        "/srv/copy": ("x",),
    }


def test_a_tree_that_a_link_leads_to_is_entered_once(keystore: Keystore, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("tree")
    keystore.note_tree(TREE, tmp_path / "link", ["a"])
    keystore.note_tree(TREE, tmp_path / "tree", ["a"])
    assert [tree.path for tree in known_trees(keystore.home)] == [str(tmp_path / "tree")]


@pytest.mark.parametrize("breaking", BROKEN)
def test_a_broken_register_stops_nothing_but_deletion(
    keystore: Keystore,
    key: KeyMetadata,
    caplog: pytest.LogCaptureFixture,
    breaking: Callable[[Path], None],
) -> None:
    breaking(keystore.home)
    with pytest.raises(MetadataUnavailableError, match="register of trees"):
        known_trees(keystore.home)
    keystore.note_tree(TREE, Path("/srv/tree"), [key.arn])
    assert [TREE.hex() in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(KeyInUseError, match="register of trees"):
        keystore.schedule_key_deletion(key.arn)
    assert keystore.schedule_key_deletion(key.arn, force=True).state is KeyState.PENDING_DELETION
    assert scheduled(keystore.home)[-1]["override"] == "force"


def test_a_register_that_cannot_be_written_is_a_warning(
    keystore: Keystore, key: KeyMetadata, caplog: pytest.LogCaptureFixture
) -> None:
    (keystore.home / ".trees.json.new").mkdir()
    keystore.note_tree(TREE, Path("/srv/tree"), [key.arn])
    assert ["cannot be written" in record.getMessage() for record in caplog.records] == [True]
    assert known_trees(keystore.home) == []

"""What the tree key protects: records, names, symlinks, attributes; each bound to its place."""

from dataclasses import replace

import pytest
from testkit.golden import (
    CHILD_ID,
    FILE_ID,
    NO_PARENT,
    NONCE,
    ROOT_ID,
    TREE_KEY,
    TREE_KEYS,
    fixed,
    flip,
    sample_directory,
    sample_superblock,
)

from kmsfs.envelope.tree_key import (
    INDIRECT_LINK_SIZE,
    LINK_ID_SIZE,
    LINK_PREFIX,
    MAX_INLINE_TARGET,
    MAX_NAME,
    TreeKeys,
    b64,
    entry_name,
    target_length,
    unb64,
)
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.directory import DirectoryRecord
from kmsfs.ids import TreeId

OTHER_TREE = TreeKeys(TREE_KEY, TreeId(fixed("other tree", 16)))
RECORD = TREE_KEYS.seal_directory(sample_directory())


@pytest.mark.parametrize("at", range(384))
def test_every_byte_of_a_directory_record_counts(at: int) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        TREE_KEYS.open_directory(flip(RECORD, 8 * at + at % 8), ROOT_ID)


def test_a_record_of_another_tree_is_refused() -> None:
    with pytest.raises(IntegrityError):
        OTHER_TREE.open_directory(RECORD, ROOT_ID)


def test_a_directory_cannot_become_the_root_nor_the_root_a_directory() -> None:
    root = TREE_KEYS.seal_directory(DirectoryRecord(ROOT_ID, NO_PARENT))
    assert TREE_KEYS.open_directory(root, NO_PARENT).dir_id == ROOT_ID
    for raw, parent in ((RECORD, NO_PARENT), (root, ROOT_ID), (root, CHILD_ID)):
        with pytest.raises(IntegrityError, match="another parent"):
            TREE_KEYS.open_directory(raw, parent)


@pytest.mark.parametrize("size", [0, 12, 352, 383, 385])
def test_a_record_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        TREE_KEYS.open_directory((RECORD + b"\0")[:size], ROOT_ID)


def test_superblock_of_another_tree_is_refused() -> None:
    with pytest.raises(IntegrityError):
        OTHER_TREE.verify_superblock(replace(sample_superblock(), tree_id=TreeId(fixed("other tree", 16))))


@pytest.mark.parametrize("name", [b"a", b"\xff", b"x" * 175, b"x" * 176, b"x" * MAX_NAME, b"..."])
def test_a_name_opens_in_its_directory_only(name: bytes) -> None:
    encrypted = TREE_KEYS.encrypt_name(name, ROOT_ID)
    assert TREE_KEYS.decrypt_name(encrypted, ROOT_ID) == name
    assert b"." not in encrypted
    assert len(entry_name(encrypted)) <= MAX_NAME
    assert encrypted != TREE_KEYS.encrypt_name(name, CHILD_ID)
    with pytest.raises(IntegrityError):
        TREE_KEYS.decrypt_name(encrypted, CHILD_ID)
    with pytest.raises(IntegrityError):
        OTHER_TREE.decrypt_name(encrypted, ROOT_ID)


def test_every_character_of_an_encrypted_name_counts() -> None:
    encrypted = TREE_KEYS.encrypt_name(b"name", ROOT_ID)
    for at, character in enumerate(encrypted):
        other = b"A" if character != ord("A") else b"B"
        with pytest.raises((FormatError, IntegrityError)):
            TREE_KEYS.decrypt_name(encrypted[:at] + other + encrypted[at + 1 :], ROOT_ID)


def test_an_entry_is_long_from_176_bytes_on() -> None:
    fits, does_not = (TREE_KEYS.encrypt_name(b"x" * size, ROOT_ID) for size in (175, 176))
    assert entry_name(fits) == fits
    assert entry_name(does_not).startswith(b"kmsfs.long.")
    assert len(entry_name(does_not)) == 54


@pytest.mark.parametrize(
    "text", [b"README", b"a.txt", b"=", b"AA==", b"A", b"AAA A", b"\xff" * 30, b"AAB", b""]
)
def test_foreign_names_are_refused(text: bytes) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        TREE_KEYS.decrypt_name(text, ROOT_ID)


@pytest.mark.parametrize("size", [*range(1, 7), 1000, MAX_INLINE_TARGET])
def test_length_of_a_symlink_is_arithmetic(size: int) -> None:
    backing = b64(TREE_KEYS.seal_target(b"t" * size, NONCE))
    assert target_length(len(backing)) == size
    assert len(backing) <= 4095


def test_a_longer_target_does_not_fit_and_an_indirect_link_is_told_by_its_length() -> None:
    assert len(b64(TREE_KEYS.seal_target(b"t" * (MAX_INLINE_TARGET + 1), NONCE))) > 4095
    assert len(LINK_PREFIX + b64(bytes(LINK_ID_SIZE))) == INDIRECT_LINK_SIZE
    assert INDIRECT_LINK_SIZE % 4 == 1
    assert target_length(INDIRECT_LINK_SIZE) is None
    assert target_length(5) == 0


def test_every_byte_of_a_symlink_counts() -> None:
    sealed = TREE_KEYS.seal_target(b"target", NONCE)
    for at in range(len(sealed)):
        with pytest.raises(IntegrityError):
            TREE_KEYS.open_target(flip(sealed, 8 * at))
    with pytest.raises(IntegrityError):
        OTHER_TREE.open_target(sealed)


def test_equal_targets_and_values_look_different() -> None:
    other = fixed("other nonce", 12)
    assert TREE_KEYS.seal_target(b"t", NONCE)[12:] != TREE_KEYS.seal_target(b"t", other)[12:]
    sealed = [TREE_KEYS.seal_xattr(b"user.a", b"v", FILE_ID, nonce)[12:] for nonce in (NONCE, other)]
    assert sealed[0] != sealed[1]


@pytest.mark.parametrize("owner", [FILE_ID, ROOT_ID])
@pytest.mark.parametrize("value", [b"", b"v", bytes(5000)])
def test_an_attribute_opens_under_its_name_and_owner_only(owner: bytes, value: bytes) -> None:
    name = b"user.a.b"
    backing, sealed = TREE_KEYS.xattr_name(name, owner), TREE_KEYS.seal_xattr(name, value, owner, NONCE)
    assert backing.startswith(b"user.kmsfs.")
    assert TREE_KEYS.open_xattr(backing, sealed, owner) == (name, value)
    for other_name, other_owner in (
        (TREE_KEYS.xattr_name(b"user.a.c", owner), owner),
        (TREE_KEYS.xattr_name(b"trusted.a.b", owner), owner),
        (TREE_KEYS.xattr_name(name, CHILD_ID), CHILD_ID),
        (TREE_KEYS.xattr_name(name, CHILD_ID), owner),
    ):
        with pytest.raises(IntegrityError):
            TREE_KEYS.open_xattr(other_name, sealed, other_owner)


def test_every_byte_of_an_attribute_counts() -> None:
    backing, sealed = (
        TREE_KEYS.xattr_name(b"user.a", FILE_ID),
        TREE_KEYS.seal_xattr(b"user.a", b"v", FILE_ID, NONCE),
    )
    for at in range(len(sealed)):
        with pytest.raises(IntegrityError):
            TREE_KEYS.open_xattr(backing, flip(sealed, 8 * at), FILE_ID)
    for size in range(len(sealed)):
        with pytest.raises(IntegrityError):
            TREE_KEYS.open_xattr(backing, sealed[:size], FILE_ID)


def test_an_attribute_whose_name_runs_past_its_end_is_refused() -> None:
    cipher = TREE_KEYS._xattr_values
    sealed = NONCE + cipher.seal(b"\xff\xffuser.a", [b"kmsfs1 xattr", FILE_ID, NONCE])
    with pytest.raises(IntegrityError):
        TREE_KEYS.open_xattr(TREE_KEYS.xattr_name(b"user.a", FILE_ID), sealed, FILE_ID)


@pytest.mark.parametrize("text", [b"A", b"AB", b"AA=", b"AA==", b"A+==", b"A A", b"AA\n", b"A/"])
def test_only_what_b64_writes_is_read(text: bytes) -> None:
    with pytest.raises(FormatError):
        unb64(text)


def test_keys_do_not_show() -> None:
    assert repr(TREE_KEYS) == "TreeKeys(<keys>)"

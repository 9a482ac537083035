"""The superblock: canonical bytes only, every edit noticed, the future told from damage."""

import json
from dataclasses import replace

import pytest
from testkit.golden import KEY_ARN, TREE_KEYS, sample_superblock

from kmsfs.envelope.tree_key import TreeKeys
from kmsfs.errors import FormatError, IntegrityError, UnsupportedFormatError
from kmsfs.format.superblock import MAX_SIZE, Superblock, TreeSlot
from kmsfs.ids import KeyArn, TreeId

RAW = sample_superblock().pack()
MEMBERS = json.loads(RAW)


def read(raw: bytes) -> Superblock:
    block = Superblock.parse(raw)
    TREE_KEYS.verify_superblock(block)
    return block


def test_it_is_canonical_json() -> None:
    assert json.dumps(MEMBERS, sort_keys=True, separators=(",", ":")).encode() == RAW
    assert set(MEMBERS) == {
        "chunk_size",
        "default_key_arn",
        "format",
        "incompat",
        "mac",
        "ro_compat",
        "slots",
        "tree_id",
        "version",
    }
    assert read(RAW) == sample_superblock()


@pytest.mark.parametrize("at", range(len(RAW)))
def test_no_byte_can_change(at: int) -> None:
    for bit in (1, 0x20):
        with pytest.raises((FormatError, IntegrityError)):
            read(RAW[:at] + bytes([RAW[at] ^ bit]) + RAW[at + 1 :])


@pytest.mark.parametrize("length", [*range(0, len(RAW), 37), len(RAW) - 1])
def test_a_cut_superblock_is_refused(length: int) -> None:
    with pytest.raises(FormatError):
        read(RAW[:length])


@pytest.mark.parametrize("member", sorted(MEMBERS))
@pytest.mark.parametrize("value", [None, True, 0, -1, 1.5, 1 << 70, "x", "", [], [1], {}, [[]], "\ud800"])
def test_every_member_of_a_wrong_type_or_value_is_refused(member: str, value: object) -> None:
    if MEMBERS[member] == value and type(MEMBERS[member]) is type(value):
        return
    changed = json.dumps(MEMBERS | {member: value}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises((FormatError, IntegrityError)):
        read(changed)


@pytest.mark.parametrize(
    "slot",
    [None, 1, "x", [], {}, {"key_arn": "x"}, {"key_arn": 1, "blob": "AA=="}, {"key_arn": "x", "blob": 1}],
)
def test_a_malformed_slot_is_refused(slot: object) -> None:
    changed = json.dumps(MEMBERS | {"slots": [slot]}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(FormatError, match="slot"):
        Superblock.parse(changed)


def test_a_member_given_twice_is_refused() -> None:
    doubled = RAW.replace(b'"version":1', b'"version":1,"version":1')
    with pytest.raises(FormatError, match="canonical"):
        Superblock.parse(doubled)


@pytest.mark.parametrize("raw", [b"\xff" + RAW, b"[" * MAX_SIZE, b"9" * 5000, b"[]", b"null", b"", b"NaN"])
def test_other_bytes_are_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        Superblock.parse(raw)


def test_the_size_is_bounded() -> None:
    with pytest.raises(FormatError, match="larger"):
        Superblock.parse(b" " * (MAX_SIZE + 1))


def test_a_newer_version_is_told_from_damage_and_says_so() -> None:
    with pytest.raises(UnsupportedFormatError, match="version 9") as caught:
        Superblock.parse(json.dumps({"format": "kmsfs-tree", "version": 9}).encode())
    assert caught.value.hint


def test_read_only_features_are_kept_and_authentic() -> None:
    block = TREE_KEYS.seal_superblock(replace(sample_superblock(), ro_compat=("b", "a")))
    assert block.read_only
    assert read(block.pack()) == block
    assert not sample_superblock().read_only


def test_another_trees_superblock_is_refused() -> None:
    block = sample_superblock()
    for keys in (TreeKeys(bytes(32), block.tree_id), TreeKeys(bytes(range(32)), block.tree_id)):
        with pytest.raises(IntegrityError):
            keys.verify_superblock(block)
    assert block.default_key_arn == KEY_ARN


@pytest.mark.parametrize(
    ("zone", "others", "wanted"),
    [
        ("", "", "a"),
        ("z", "", "z"),
        ("", "b", "ab"),
        ("z", "b", "zb"),
        ("b", "b", "b"),
        ("", "bcd", "abc"),
        ("z", "bcd", "zbc"),
        ("a", "bc", "abc"),
    ],
)
def test_files_are_wanted_under_their_zone_and_the_replicas(zone: str, others: str, wanted: str) -> None:
    slots = tuple(TreeSlot(KeyArn(arn), b"blob") for arn in ("a", *others))
    block = Superblock(TreeId(bytes(16)), 4096, KeyArn("a"), slots)
    assert block.wanted_keys(zone) == tuple(wanted)

"""Two header copies: which one is served, whatever a crash or an attacker did to them."""

from collections.abc import Callable

import pytest
from testkit.golden import DATA_KEY, FILE_ID, TREE_ID, file_keys, fixed, flip, sample_header, wrap

from kmsfs.envelope.file_key import derive_file_keys, newest_unverified, next_header, open_header, seal_header
from kmsfs.errors import (
    AccessDeniedError,
    FormatError,
    HsmTimeoutError,
    IncorrectKeyError,
    IntegrityError,
    InvalidCiphertextError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsfsError,
    RegionNotFoundError,
    TokenNotFoundError,
    UnsupportedFormatError,
)
from kmsfs.format import aad
from kmsfs.format.header import FileHeader, header_mac
from kmsfs.ids import FileId

OLD = sample_header()._replace(dirty=True, sealed_length=5)
NEW = next_header(OLD, dirty=False, sealed_length=6)
OLD_RAW, NEW_RAW = seal_header(OLD, file_keys()), seal_header(NEW, file_keys())

# (offset, size) of every field of docs/format.md section 3
FIELDS = {
    "magic": (0, 8),
    "version": (8, 2),
    "suite": (10, 2),
    "chunk size": (12, 1),
    "state": (13, 1),
    "incompatible flags": (14, 2),
    "read-only flags": (16, 2),
    "slot count": (18, 1),
    "extent count": (19, 1),
    "reserved": (20, 4),
    "generation": (24, 8),
    "file id": (32, 32),
    "commitment": (64, 32),
    "sealed length": (96, 8),
    "chunk writes": (104, 8),
    "extents": (112, 96),
    "slots": (208, 774),
    "reserved at the end": (982, 10),
    "MAC": (992, 32),
}


def unwrap(_: FileHeader) -> bytes:
    return DATA_KEY


def served(raw: bytes, key: Callable[[FileHeader], bytes] = unwrap) -> FileHeader:
    return open_header(raw, key).header


def test_the_fields_cover_a_whole_copy() -> None:
    ends = [at + size for at, size in FIELDS.values()]
    assert [at for at, _ in FIELDS.values()] == [0, *ends[:-1]]
    assert ends[-1] == 1024


@pytest.mark.parametrize("newest", [0, 1], ids=["A", "B"])
def test_the_highest_generation_that_verifies_is_served(newest: int) -> None:
    opened = open_header(OLD_RAW + NEW_RAW if newest else NEW_RAW + OLD_RAW, unwrap)
    assert opened.header == NEW
    assert opened.newest_copy == newest
    assert not opened.copies_agree
    assert opened.may_be_clean


def test_equal_copies_agree_and_a_is_the_newest() -> None:
    opened = open_header(NEW_RAW + NEW_RAW, unwrap)
    assert (opened.newest_copy, opened.copies_agree, opened.may_be_clean) == (0, True, True)
    assert not open_header(OLD_RAW + OLD_RAW, unwrap).may_be_clean


def test_a_file_may_be_clean_on_disk_when_only_the_older_copy_says_so() -> None:
    dirty = next_header(NEW, dirty=True)
    assert open_header(NEW_RAW + seal_header(dirty, file_keys()), unwrap).may_be_clean


@pytest.mark.parametrize("name", FIELDS)
def test_a_flipped_bit_in_one_copy_leaves_the_other_in_both_copies_is_an_error(name: str) -> None:
    at, size = FIELDS[name]
    for byte in range(at, at + size):
        bit = 8 * byte + byte % 8
        bad_new, bad_old = flip(NEW_RAW, bit), flip(OLD_RAW, bit)
        assert served(bad_new + OLD_RAW) == OLD
        assert served(NEW_RAW + bad_old) == NEW
        with pytest.raises((FormatError, IntegrityError)):
            served(bad_new + bad_old)


@pytest.mark.parametrize("torn_at", range(0, 1025, 32))
def test_a_torn_write_of_one_copy_leaves_the_old_or_the_new_header(torn_at: int) -> None:
    """The write of NEW over copy A stopped, with its first or its last part on the disk, or zeros in it."""
    older = seal_header(OLD._replace(generation=OLD.generation - 1), file_keys())
    mixtures = [
        NEW_RAW[:torn_at] + older[torn_at:],
        older[:torn_at] + NEW_RAW[torn_at:],
        NEW_RAW[:torn_at] + bytes(1024 - torn_at),
        bytes(torn_at) + NEW_RAW[torn_at:],
    ]
    for torn in mixtures:
        assert served(torn + OLD_RAW) in (OLD, NEW)
        assert served(OLD_RAW + torn) in (OLD, NEW)


def test_both_copies_torn_is_an_error() -> None:
    torn = NEW_RAW[:512] + OLD_RAW[512:]
    with pytest.raises(IntegrityError):
        served(torn + torn)
    with pytest.raises(FormatError):
        served(bytes(2048))


@pytest.mark.parametrize("generation", [0, 1, (1 << 64) - 1])
def test_a_forged_generation_does_not_win(generation: int) -> None:
    forged = NEW_RAW[:24] + generation.to_bytes(8) + NEW_RAW[32:]
    assert served(forged + OLD_RAW) == OLD
    assert served(OLD_RAW + forged) == OLD


def test_parts_of_two_authentic_copies_do_not_make_a_third() -> None:
    """The old sealed length under the new generation, and the other way round."""
    for at, size in FIELDS.values():
        mixed = NEW_RAW[:at] + OLD_RAW[at : at + size] + NEW_RAW[at + size :]
        if mixed != NEW_RAW:
            with pytest.raises((FormatError, IntegrityError)):
                served(mixed + mixed)


def test_another_data_key_is_refused_by_the_commitment() -> None:
    with pytest.raises(IntegrityError, match="commitment"):
        served(NEW_RAW + OLD_RAW, lambda _: bytes(32))


def test_a_replaced_commitment_is_refused_by_the_mac() -> None:
    """An attacker's key and its own commitment do not make a header: nothing in the file verifies under it."""
    attacker = derive_file_keys(bytes(32), FILE_ID, 1, 4096)
    forged = NEW._replace(commitment=attacker.commitment).pack() + header_mac(NEW_RAW)[1]
    with pytest.raises(IntegrityError, match="header"):
        served(forged + forged, lambda _: bytes(32))


def test_one_file_id_gives_other_keys_than_another() -> None:
    ids = [FILE_ID, FileId(fixed("other file", 32))]
    assert (
        len(
            {
                derive_file_keys(DATA_KEY, file_id, suite, 4096).commitment
                for file_id in ids
                for suite in (1, 2)
            }
        )
        == 4
    )


def test_a_header_of_another_file_does_not_verify_under_this_ones_key() -> None:
    other = FileId(fixed("other file", 32))
    keys = derive_file_keys(DATA_KEY, other, 1, 4096)
    foreign = seal_header(NEW._replace(file_id=other, commitment=keys.commitment, generation=99), keys)
    swapped = foreign[:32] + FILE_ID + foreign[64:]
    assert served(swapped + OLD_RAW) == OLD


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 2047, 2049])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(FormatError, match="cut off"):
        served((NEW_RAW + OLD_RAW + b"x")[:size])


# --- what a failing unwrap says about a copy ---------------------------------------------------------


def fails_for_the_newest(error: KmsfsError) -> Callable[[FileHeader], bytes]:
    def unwrap_or_fail(header: FileHeader) -> bytes:
        if header.generation == NEW.generation:
            raise error
        return DATA_KEY

    return unwrap_or_fail


@pytest.mark.parametrize(
    "kind", [InvalidCiphertextError, IncorrectKeyError, KeyNotFoundError, RegionNotFoundError, FormatError]
)
def test_a_slot_that_does_not_unwrap_condemns_its_copy_only(kind: type[KmsfsError]) -> None:
    assert served(NEW_RAW + OLD_RAW, fails_for_the_newest(kind("slot"))) == OLD


@pytest.mark.parametrize("kind", [HsmTimeoutError, TokenNotFoundError, KeyDisabledError, AccessDeniedError])
def test_an_older_copy_is_not_served_because_the_keystore_refused(kind: type[KmsfsError]) -> None:
    with pytest.raises(kind):
        served(NEW_RAW + OLD_RAW, fails_for_the_newest(kind("not now")))


def test_when_no_copy_is_good_the_newest_says_why() -> None:
    def fail(header: FileHeader) -> bytes:
        raise InvalidCiphertextError(f"generation {header.generation}")

    with pytest.raises(InvalidCiphertextError, match=f"generation {NEW.generation}"):
        served(OLD_RAW + NEW_RAW, fail)


@pytest.mark.parametrize("at", [9, 11, 15])
def test_an_unsupported_copy_is_told_from_a_damaged_one(at: int) -> None:
    newer = NEW_RAW[:at] + b"\2" + NEW_RAW[at + 1 :]
    for raw in (newer + newer, newer + bytes(1024), bytes(1024) + newer):
        with pytest.raises(UnsupportedFormatError):
            served(raw)


def test_slots_are_handed_over_as_the_keystore_returned_them() -> None:
    blobs = tuple(wrap(DATA_KEY, aad.file_context(TREE_ID, FILE_ID), fixed(f"n{n}", 12)) for n in range(3))
    seen = []

    def note(header: FileHeader) -> bytes:
        seen.append(header.slots)
        return DATA_KEY

    raw = seal_header(NEW._replace(slots=blobs), file_keys())
    served(raw + raw, note)
    assert seen == [blobs]


def test_keys_do_not_show_in_representations() -> None:
    opened = open_header(NEW_RAW + OLD_RAW, unwrap)
    material = opened.keys.header_mac_key
    for text in (repr(opened), repr(opened.keys), repr(opened.keys.cipher)):
        assert repr(material) not in text
        assert material.hex() not in text


# --- without keys --------------------------------------------------------------------------------------


def test_without_keys_the_newest_copy_that_parses_is_told() -> None:
    assert newest_unverified(OLD_RAW + NEW_RAW) == NEW
    assert newest_unverified(NEW_RAW + NEW_RAW) == NEW
    assert newest_unverified(bytes(1024) + OLD_RAW) == OLD
    with pytest.raises(FormatError):
        newest_unverified(bytes(2048))
    with pytest.raises(UnsupportedFormatError):
        newest_unverified((NEW_RAW[:9] + b"\2" + NEW_RAW[10:]) * 2)


def test_without_keys_a_planted_copy_of_another_file_is_refused() -> None:
    planted = NEW_RAW[:24] + b"\xff" * 8 + fixed("other file", 32) + NEW_RAW[64:]
    assert served(planted + OLD_RAW) == OLD  # the content still opens
    for raw in (planted + OLD_RAW, OLD_RAW + planted):
        with pytest.raises(IntegrityError, match="two files"):
            newest_unverified(raw)

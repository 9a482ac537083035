"""New slots for a file's header: what is stale, what is kept, what a stop between the two writes leaves."""

import os
from pathlib import Path

import pytest
from testkit.posix import Posix

from kmsfs.errors import FormatError, IntegrityError, KeyDisabledError, KeyNotFoundError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tree.rekey import Rekeyer, TargetError, is_current
from kmsfs.tree.swaps import write_newest_copy, write_other_copy

EU, US = "eu-west-1", "us-east-1"


@pytest.fixture
async def file(posix: Posix) -> Path:
    """The backing path of a sealed file that holds ``abc``."""
    await posix.put(b"f", b"abc")
    await posix.reopen()  # seals it
    return posix.backing(b"f")


@pytest.fixture
def home_key(posix: Posix) -> KeyArn:
    """The key of the tree."""
    return posix.tree.volume.block.default_key_arn


@pytest.fixture
def other_key(keystore: Keystore) -> KeyArn:
    """A key of a second region, in a token of its own."""
    keystore.add_region(US)
    return keystore.create_key(region=US).arn


@pytest.fixture
def rekeyer(posix: Posix) -> Rekeyer:
    """For the tree's files."""
    return Rekeyer(posix.keystore, posix.tree.volume.block.tree_id)


def header_bytes(path: Path) -> bytes:
    """The two header copies as they stand on the store."""
    return path.read_bytes()[:HEADER_SIZE]


def keys_of(raw: bytes) -> list[list[str]]:
    """The key ARNs of each copy's slots."""
    copies = [raw[at : at + HEADER_COPY_SIZE] for at in (0, HEADER_COPY_SIZE)]
    return [[parse_blob_head(blob).key_arn for blob in FileHeader.parse(copy).slots] for copy in copies]


async def test_a_current_header_needs_nothing_and_no_hsm(
    file: Path, rekeyer: Rekeyer, home_key: KeyArn, keystore: Keystore
) -> None:
    before = keystore.hsm_calls
    assert rekeyer.swap(header_bytes(file), rekeyer.targets([home_key])) is None
    assert keystore.hsm_calls == before


async def test_a_swap_costs_two_hsm_calls(
    file: Path, rekeyer: Rekeyer, other_key: KeyArn, keystore: Keystore
) -> None:
    targets = rekeyer.targets([other_key])
    keystore.encrypt(other_key, b"x", {})  # the first use of a key commits a block of its counter
    before = keystore.hsm_calls
    assert rekeyer.swap(header_bytes(file), targets) is not None
    assert keystore.hsm_calls == before + 2


@pytest.mark.parametrize("touch", [False, True])
async def test_the_file_reads_after_either_half(
    posix: Posix, file: Path, rekeyer: Rekeyer, home_key: KeyArn, other_key: KeyArn, touch: bool
) -> None:
    swap = rekeyer.swap(header_bytes(file), rekeyer.targets([other_key]))
    assert swap is not None
    assert [head.key_arn for head in swap.old] == [home_key]
    assert [head.key_arn for head in swap.new] == [other_key]
    before = file.stat()
    fd = os.open(file, os.O_RDWR)
    try:
        write_other_copy(fd, swap)
        assert sorted(keys_of(header_bytes(file))) == sorted([[home_key], [other_key]])
        assert file.stat().st_mtime_ns == before.st_mtime_ns
        await posix.reopen()
        assert await posix.get(b"f") == b"abc"
        write_newest_copy(fd, swap, touch=touch)
    finally:
        os.close(fd)
    assert keys_of(header_bytes(file)) == [[other_key], [other_key]]
    assert file.stat().st_mtime_ns == before.st_mtime_ns + touch * 10**9
    posix.keystore.disable_key(home_key)
    # The tree key is still under the key that is disabled: only the file is looked at.
    assert is_current(header_bytes(file), rekeyer.targets([other_key]))


async def test_slots_that_are_current_are_kept_and_put_in_order(
    file: Path, rekeyer: Rekeyer, home_key: KeyArn, other_key: KeyArn
) -> None:
    raw = header_bytes(file)
    old = FileHeader.parse(raw[:HEADER_COPY_SIZE]).slots[0]
    swap = rekeyer.swap(raw, rekeyer.targets([other_key, home_key]))
    assert swap is not None
    slots = FileHeader.parse(swap.sealed).slots
    assert slots[1] == old
    assert [parse_blob_head(slot).key_arn for slot in slots] == [other_key, home_key]


async def test_rotation_makes_a_header_stale(
    file: Path, rekeyer: Rekeyer, home_key: KeyArn, keystore: Keystore
) -> None:
    keystore.rotate_key(home_key)
    targets = rekeyer.targets([home_key])
    swap = rekeyer.swap(header_bytes(file), targets)
    assert swap is not None
    assert swap.old[0].material_id != swap.new[0].material_id
    assert is_current(swap.sealed * 2, targets)


async def test_copies_that_differ_are_stale(file: Path, rekeyer: Rekeyer, other_key: KeyArn) -> None:
    raw, targets = header_bytes(file), rekeyer.targets([other_key])
    swap = rekeyer.swap(raw, targets)
    assert swap is not None
    half = raw[:HEADER_COPY_SIZE] + swap.sealed
    again = rekeyer.swap(half, targets)
    assert again is not None
    assert again.generation == swap.generation + 1
    assert FileHeader.parse(again.sealed).slots == FileHeader.parse(swap.sealed).slots


@pytest.mark.parametrize("at", [0, 40, 64, 208 + 160, 208 + 180, 1000])
async def test_a_damaged_header_is_not_replaced(
    file: Path, rekeyer: Rekeyer, other_key: KeyArn, at: int
) -> None:
    raw = bytearray(header_bytes(file))
    for copy in (0, HEADER_COPY_SIZE):
        raw[copy + at] ^= 1
    with pytest.raises((FormatError, IntegrityError)):
        rekeyer.swap(bytes(raw), rekeyer.targets([other_key]))


async def test_a_disabled_source_key_says_so(
    file: Path, rekeyer: Rekeyer, home_key: KeyArn, other_key: KeyArn, keystore: Keystore
) -> None:
    keystore.disable_key(home_key)
    with pytest.raises(KeyDisabledError):
        rekeyer.swap(header_bytes(file), rekeyer.targets([other_key]))


async def test_an_unknown_key_is_no_target(rekeyer: Rekeyer) -> None:
    with pytest.raises(KeyNotFoundError):
        rekeyer.targets([KeyArn(f"arn:aws:kms:{EU}:000000000000:key/01234567-89ab-cdef-0123-456789abcdef")])


async def test_many_at_once_are_as_one_by_one(
    posix: Posix, file: Path, rekeyer: Rekeyer, home_key: KeyArn, other_key: KeyArn, keystore: Keystore
) -> None:
    await posix.put(b"g", b"more")
    await posix.reopen()
    good = [header_bytes(file), header_bytes(posix.backing(b"g"))]
    targets = rekeyer.targets([other_key, home_key])
    flipped = bytearray(good[0])
    for copy in (0, HEADER_COPY_SIZE):
        flipped[copy + 40] ^= 1  # the file id: nothing opens
    torn = good[0][:HEADER_COPY_SIZE] + bytes(HEADER_COPY_SIZE)
    forged = bytearray(good[0])
    for copy in (0, HEADER_COPY_SIZE):
        forged[copy + 100] ^= 1  # the sealed length: it opens, and does not verify
    rekeyer.swaps([(good[0], targets)])  # the first use of a key commits a block of its counter
    before = keystore.hsm_calls
    swaps = rekeyer.swaps([(raw, targets) for raw in (good[0], bytes(flipped), torn, bytes(forged), good[1])])
    # One to open each that is whole, one to tell a bad slot from a bad token, one for each of three that opened.
    assert keystore.hsm_calls == before + 4 + 1 + 3
    assert [swap is None for swap in swaps] == [False, True, True, True, False]
    for raw, swap in zip(good, (swaps[0], swaps[4]), strict=True):
        alone = rekeyer.swap(raw, targets)
        assert swap is not None
        assert alone is not None
        assert (swap.generation, swap.old, swap.new) == (alone.generation, alone.old, alone.new)
        header, other = FileHeader.parse(swap.sealed), FileHeader.parse(alone.sealed)
        assert header._replace(slots=other.slots) == other
        assert is_current(swap.sealed * 2, targets)


async def test_a_wanted_key_that_fails_is_told_apart(
    file: Path, rekeyer: Rekeyer, other_key: KeyArn, keystore: Keystore
) -> None:
    targets = rekeyer.targets([other_key])
    keystore.disable_key(other_key)
    for ask in (lambda raw: rekeyer.swaps([(raw, targets)]), lambda raw: rekeyer.swap(raw, targets)):
        with pytest.raises(TargetError) as caught:
            ask(header_bytes(file))
        assert isinstance(caught.value.reason, KeyDisabledError)

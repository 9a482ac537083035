"""A tree as a whole: making one, opening its superblock, holding its locks."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from kmsfs.crypto.entropy import random_bytes
from kmsfs.envelope.file_key import gravest
from kmsfs.envelope.tree_key import TreeKeys
from kmsfs.errors import (
    FormatError,
    IntegrityError,
    InvalidCiphertextError,
    InvalidRequestError,
    KmsfsError,
    LimitExceededError,
    NotATreeError,
    TreeBusyError,
    TreeExistsError,
)
from kmsfs.format import aad
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.directory import NO_DIRECTORY, DirectoryRecord
from kmsfs.format.layout import check_chunk_size
from kmsfs.format.superblock import MAX_SIZE, MAX_SLOTS, Superblock, TreeSlot
from kmsfs.ids import DirId, TreeId
from kmsfs.storage import backing, durable
from kmsfs.tree.directories import RECORD_NAME, SUPERBLOCK_NAME, WORK_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kmsfs.ids import KeyArn
    from kmsfs.keystore.service import Keystore

DEFAULT_CHUNK_SIZE = 4096


def create_tree(
    keystore: Keystore,
    path: Path,
    key_ref: str,
    region: str | None = None,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> Superblock:
    """Make an empty tree in ``path``, which is missing or an empty directory. The superblock comes last."""
    check_chunk_size(chunk_size)
    key = keystore.resolve(key_ref, region=region)
    tree_id = TreeId(random_bytes(16))
    wrapped = keystore.generate_data_key(key.arn, aad.tree_context(tree_id))
    keys = TreeKeys(wrapped.plaintext, tree_id)
    slots = (TreeSlot(wrapped.key_arn, wrapped.blob),)
    block = keys.seal_superblock(Superblock(tree_id, chunk_size, wrapped.key_arn, slots))
    root_fd = _make_directory(path)
    try:
        record = DirectoryRecord(DirId(random_bytes(16)), NO_DIRECTORY)
        durable.write_new(RECORD_NAME, root_fd, keys.seal_directory(record))
        durable.write_new(SUPERBLOCK_NAME, root_fd, block.pack())
        durable.sync_directory(root_fd)
    finally:
        os.close(root_fd)
    return block


def _make_directory(path: Path) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    root_fd = open_root(path)
    names = set(os.listdir(root_fd))
    if names - {os.fsdecode(RECORD_NAME)}:
        os.close(root_fd)
        kind = "is a tree already" if os.fsdecode(SUPERBLOCK_NAME) in names else "is not empty"
        raise TreeExistsError(f"{path} {kind}", hint="name a new or empty directory")
    for name in names:  # of an init that was interrupted
        os.unlink(name, dir_fd=root_fd)
    return root_fd


def open_root(path: Path) -> int:
    """A descriptor of the tree's root that can list."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotATreeError(f"{path} is no directory", hint="make a tree with kmsfs init") from None


def read_superblock(path: Path) -> Superblock:
    """The superblock of a tree, parsed but not authenticated: needs no keys."""
    root_fd = open_root(path)
    try:
        return read_superblock_at(root_fd, path)
    finally:
        os.close(root_fd)


def read_superblock_at(root_fd: int, path: Path) -> Superblock:
    """The superblock in an open root; ``path`` is for messages."""
    try:
        raw = backing.read_small(SUPERBLOCK_NAME, root_fd, MAX_SIZE)
    except FileNotFoundError:
        raise NotATreeError(
            f"{path} has no superblock kmsfs.tree", hint="make a tree with kmsfs init, or restore kmsfs.tree"
        ) from None
    try:
        return Superblock.parse(raw)
    except FormatError as error:
        raise type(error)(f"{path}: {error}", hint=error.hint or "restore kmsfs.tree from a backup") from None


def open_tree_keys(keystore: Keystore, block: Superblock, path: Path) -> tuple[TreeKeys, TreeSlot]:
    """Unwrap the tree key from the nearest slot that yields it, and authenticate the superblock."""
    problems: list[KmsfsError] = []
    for slot in _nearest_first(keystore, block.slots):
        try:
            result = keystore.decrypt(slot.blob, aad.tree_context(block.tree_id))
        except InvalidCiphertextError as error:
            problems.append(
                IntegrityError(
                    f"{path}: superblock does not verify ({error})", hint="restore kmsfs.tree from a backup"
                )
            )
            continue
        except KmsfsError as error:
            problems.append(error)
            continue
        keys = TreeKeys(result.plaintext, block.tree_id)
        _verify(keys, block, path)
        return keys, slot
    raise gravest(problems)


def _verify(keys: TreeKeys, block: Superblock, path: Path) -> None:
    try:
        keys.verify_superblock(block)
    except IntegrityError:
        raise IntegrityError(
            f"{path}: superblock does not verify", hint="restore kmsfs.tree from a backup"
        ) from None


def _nearest_first(keystore: Keystore, slots: Sequence[TreeSlot]) -> Sequence[TreeSlot]:
    if len(slots) == 1:
        return slots
    keystore.measure(slot.key_arn for slot in slots)
    return sorted(slots, key=lambda slot: keystore.distance(slot.key_arn))


def reread_superblock(root_fd: int, path: Path, keys: TreeKeys, known: Superblock) -> Superblock:
    """What a tool has put in the place of an open tree's superblock; IntegrityError unless it is of that tree."""
    block = read_superblock_at(root_fd, path)
    _verify(keys, block, path)
    for name in ("tree_id", "chunk_size", "ro_compat"):
        if getattr(block, name) != getattr(known, name):
            raise IntegrityError(f"{path}: {name} of the superblock is not that of the mounted tree")
    return block


def declare_keys(
    keystore: Keystore, root_fd: int, path: Path, key_arns: Sequence[KeyArn], *, renew: bool = False
) -> Superblock:
    """Make a tree be under these keys: the first becomes the default key, the others are its replicas.

    The superblock gets one slot for each, in that order, and no other; it is replaced durably, unless it is so
    already. A slot that is there is kept; with ``renew``, only if it is under its key's current material. Whatever
    fails leaves the superblock as it was. The caller holds ``lock_work``. The tree key never leaves the keystore.
    """
    _check_keys(path, key_arns)
    block = read_superblock_at(root_fd, path)
    keys, opened = open_tree_keys(keystore, block, path)
    there = {slot.key_arn: slot for slot in block.slots}
    slots = []
    for key_arn in key_arns:
        slot = there.get(key_arn)
        if slot is None or (renew and not _is_current(keystore, slot)):
            context = aad.tree_context(block.tree_id)
            slot = TreeSlot(key_arn, keystore.re_encrypt(opened.blob, context, key_arn, context).blob)
        slots.append(slot)
    declared = keys.seal_superblock(replace(block, default_key_arn=key_arns[0], slots=tuple(slots)))
    if declared != block:
        durable.replace(SUPERBLOCK_NAME, root_fd, declared.pack())
    return declared


def _check_keys(path: Path, key_arns: Sequence[KeyArn]) -> None:
    if not key_arns or len(set(key_arns)) < len(key_arns):
        raise InvalidRequestError(f"{path}: a tree is under one key or several different ones")
    if len(key_arns) > MAX_SLOTS:
        raise LimitExceededError(
            f"{path}: a tree is under at most {MAX_SLOTS} keys", hint="drop one: kmsfs replicate --drop-key"
        )


def _is_current(keystore: Keystore, slot: TreeSlot) -> bool:
    """Whether a slot of an authentic superblock is under the current material of its key."""
    return parse_blob_head(slot.blob).material_id == keystore.resolve(slot.key_arn).current_material_id


def lock_tree(root_fd: int, path: Path, *, shared: bool) -> int:
    """Hold the tree: alone for a read-write mount, with others for read-only ones. Returns the holding fd."""
    # The root itself, not the superblock: that is replaced as a whole when a slot is added.
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise TreeBusyError(
            f"{path} is mounted already", hint="unmount it first; kmsfs status lists the mounts"
        ) from None
    return fd


def lock_work(root_fd: int, path: Path) -> int:
    """Be the only tool that changes the keys and zones of a tree, mounted or not. Returns the holding fd."""
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(WORK_NAME, flags, 0o600, dir_fd=root_fd)
    try:
        if os.geteuid() == 0 and os.fstat(fd).st_nlink == 1:  # else it is a file from elsewhere, linked there
            owner = os.fstat(root_fd)
            os.fchown(fd, owner.st_uid, owner.st_gid)  # who can hold it the next time
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise TreeBusyError(
            f"{path}: another command changes the keys of this tree and holds its {os.fsdecode(WORK_NAME)}",
            hint="wait until it has ended",
        ) from None
    return fd


def is_worked_on(path: Path) -> bool:
    """Whether some command holds ``lock_work`` of a tree at this moment."""
    root_fd = open_root(path)
    try:
        os.close(lock_work(root_fd, path))
    except TreeBusyError:
        return True
    finally:
        os.close(root_fd)
    return False

"""Fixed keys, ids and structures: what golden vectors and the frozen tree are made of."""

from __future__ import annotations

from hashlib import shake_256

from kmsfs.crypto.aead import gcm_seal
from kmsfs.envelope.file_key import FileKeys, derive_file_keys
from kmsfs.envelope.tree_key import TreeKeys
from kmsfs.format import aad
from kmsfs.format.blob import BlobHead, Suite, head_prefix
from kmsfs.format.context import encode_context
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import FileHeader
from kmsfs.format.superblock import Superblock, TreeSlot
from kmsfs.ids import DirId, FileId, KeyArn, MaterialId, TreeId


def fixed(label: str, size: int) -> bytes:
    """Bytes that look random and never change."""
    return shake_256(b"kmsfs golden " + label.encode()).digest(size)


TREE_KEY, TREE_ID = fixed("tree key", 32), TreeId(fixed("tree id", 16))
DATA_KEY, FILE_ID = fixed("data key", 32), FileId(fixed("file id", 32))
ROOT_ID, CHILD_ID, OTHER_ID = (DirId(fixed(f"directory {name}", 16)) for name in ("root", "child", "other"))
CMK, MATERIAL_ID = fixed("cmk", 32), MaterialId(fixed("material id", 32))
KEY_ARN = KeyArn("arn:aws:kms:us-east-1:000000000000:key/6d6f6e65-7461-4f72-9964-6c652d6b6579")
NONCE = fixed("nonce", 12)
CHUNK = 4096
TREE_KEYS = TreeKeys(TREE_KEY, TREE_ID)
NO_PARENT = DirId(bytes(16))


def wrap(key: bytes, context: dict[str, str], nonce: bytes) -> bytes:
    """A ciphertext blob as a token with the fixed CMK would return it (suite 1)."""
    prefix = head_prefix(BlobHead(Suite.HSM_GCM, KEY_ARN, MATERIAL_ID)) + nonce
    return prefix + gcm_seal(CMK, nonce, key, prefix + encode_context(context))


def file_keys(chunk_size: int = CHUNK) -> FileKeys:
    return derive_file_keys(DATA_KEY, FILE_ID, 1, chunk_size)


def sample_header() -> FileHeader:
    blob = wrap(DATA_KEY, aad.file_context(TREE_ID, FILE_ID), fixed("wrap nonce", 12))
    return FileHeader(
        file_id=FILE_ID,
        commitment=file_keys().commitment,
        chunk_size=CHUNK,
        slots=(blob,),
        generation=7,
        sealed_length=100_000,
        chunk_writes=25,
        dirty=False,
        holes=((1, 5), (9, 10)),
    )


def sample_directory() -> DirectoryRecord:
    return DirectoryRecord(CHILD_ID, ROOT_ID, OTHER_ID, KEY_ARN)


def sample_superblock() -> Superblock:
    blob = wrap(TREE_KEY, aad.tree_context(TREE_ID), fixed("tree wrap nonce", 12))
    return TREE_KEYS.seal_superblock(Superblock(TREE_ID, CHUNK, KEY_ARN, (TreeSlot(KEY_ARN, blob),)))


def flip(raw: bytes, bit: int) -> bytes:
    """``raw`` with one bit turned over."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)

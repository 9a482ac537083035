"""Every byte string that is authenticated beside a ciphertext, one function each."""

import re
from collections.abc import Mapping
from typing import Final

from kmsfs.format.context import EncodedContext, encode_context
from kmsfs.ids import DirId, FileId, TreeId

FILE_ID_PAIR: Final = "kmsfs:file-id"  # the pair of an encryption context that names the file
_TREE_ID_PAIR: Final = "kmsfs:tree-id"
_BEFORE_FILE_ID, _BEFORE_TREE_ID, _ = re.split(
    b"F{64}|T{32}", encode_context({_TREE_ID_PAIR: "T" * 32, FILE_ID_PAIR: "F" * 64})
)


def chunk_prefix(file_id: FileId, suite: int, chunk_size: int) -> bytes:
    """AAD of a chunk without its index: append the index as eight big-endian bytes."""
    return b"kmsfs1" + file_id + suite.to_bytes(2, "big") + bytes([chunk_size.bit_length() - 1])


def name(directory: DirId) -> list[bytes]:
    """Associated data of an encrypted name."""
    return [directory]


def symlink(nonce: bytes, link_id: bytes = b"") -> list[bytes]:
    """Associated data of a symlink's target; ``link_id`` only for targets kept beside the symlink."""
    return [b"kmsfs1 symlink", nonce, link_id] if link_id else [b"kmsfs1 symlink", nonce]


def xattr(owner: bytes, nonce: bytes) -> list[bytes]:
    """Associated data of an extended attribute; ``owner`` is a file id or a directory id."""
    return [b"kmsfs1 xattr", owner, nonce]


def file_context(tree_id: TreeId, file_id: FileId) -> Mapping[str, str]:
    """Encryption context of a file's wrapped data key."""
    tree, file = tree_id.hex(), file_id.hex()
    assert len(tree) == 32 and len(file) == 64  # noqa: S101, PT018 - of ids that were parsed or made
    context = EncodedContext({_TREE_ID_PAIR: tree, FILE_ID_PAIR: file})
    context.encoded = b"".join((_BEFORE_FILE_ID, file.encode(), _BEFORE_TREE_ID, tree.encode()))
    return context


def files_context(tree_id: TreeId) -> dict[str, str]:
    """What the encryption contexts of all files of a tree share."""
    return {_TREE_ID_PAIR: tree_id.hex()}


def tree_context(tree_id: TreeId) -> dict[str, str]:
    """Encryption context of the wrapped tree key."""
    return {_TREE_ID_PAIR: tree_id.hex(), "kmsfs:purpose": "tree-key"}

"""What is authenticated beside a ciphertext differs wherever it should."""

from testkit.golden import CHILD_ID, FILE_ID, ROOT_ID, TREE_ID, fixed

from kmsfs.format import aad
from kmsfs.format.context import encode_context
from kmsfs.ids import FileId


def test_chunk_prefix_is_as_specified() -> None:
    assert aad.chunk_prefix(FILE_ID, 1, 4096) == b"kmsfs1" + FILE_ID + b"\0\1\x0c"
    assert aad.chunk_prefix(FILE_ID, 1, 65536)[-1] == 16


def test_prefixes_have_one_length_so_that_an_index_cannot_shift_into_them() -> None:
    prefixes = {
        aad.chunk_prefix(FileId(file_id), suite, size)
        for file_id in (FILE_ID, fixed("other file", 32))
        for suite in (1, 2)
        for size in (4096, 16384, 65536)
    }
    assert len(prefixes) == 12
    assert {len(prefix) for prefix in prefixes} == {41}


def test_associated_data_of_names_links_and_attributes_differ() -> None:
    nonce = fixed("nonce", 12)
    assert aad.name(ROOT_ID) != aad.name(CHILD_ID)
    assert aad.symlink(nonce) == [b"kmsfs1 symlink", nonce]
    assert aad.symlink(nonce, b"i" * 16) == [b"kmsfs1 symlink", nonce, b"i" * 16]
    assert aad.xattr(ROOT_ID, nonce) == [b"kmsfs1 xattr", ROOT_ID, nonce]


def test_encryption_contexts_name_the_tree_and_the_purpose() -> None:
    assert aad.file_context(TREE_ID, FILE_ID) == {
        "kmsfs:tree-id": TREE_ID.hex(),
        "kmsfs:file-id": FILE_ID.hex(),
    }
    assert aad.tree_context(TREE_ID) == {"kmsfs:tree-id": TREE_ID.hex(), "kmsfs:purpose": "tree-key"}


def test_the_encoding_that_comes_with_a_files_context_is_the_canonical_one() -> None:
    for file_id in (FILE_ID, FileId(bytes(32)), FileId(b"\xff" * 32)):
        context = aad.file_context(TREE_ID, file_id)
        assert encode_context(context) == encode_context(dict(context))
        assert dict(context) == {"kmsfs:tree-id": TREE_ID.hex(), "kmsfs:file-id": file_id.hex()}

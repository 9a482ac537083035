"""Seals and opens runs of chunks of one file (docs/format.md section 4).

Plaintext leaves only after its tag verified. No I/O: callers hold the backing bytes. These loops are the
hottest code of the project: they index one buffer and copy nothing that they need not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsfs.crypto.aead import AesGcm, InvalidTag
from kmsfs.errors import IntegrityError
from kmsfs.format import aad
from kmsfs.format.layout import CHUNK_OVERHEAD, CHUNK_SIZES, NONCE_SIZE, TAG_SIZE

if TYPE_CHECKING:
    from kmsfs.format.holes import Extents
    from kmsfs.ids import FileId

_ZEROS = bytes(max(CHUNK_SIZES) + CHUNK_OVERHEAD)


class ChunkCipher:
    """The content key of one file, bound to its id, suite and chunk size."""

    __slots__ = ("_gcm", "_prefix", "chunk_size")

    def __init__(self, content_key: bytes, file_id: FileId, suite: int, chunk_size: int) -> None:
        self._gcm = AesGcm(content_key)
        self._prefix = aad.chunk_prefix(file_id, suite, chunk_size)
        self.chunk_size = chunk_size

    def __repr__(self) -> str:
        return "ChunkCipher(<content key>)"

    def seal(
        self,
        first: int,
        plaintext: bytes | bytearray | memoryview,
        nonces: bytes,
        into: bytearray | None = None,
    ) -> memoryview:
        """Seal ``plaintext``, which starts at chunk ``first``; every chunk but the last is whole.

        ``nonces`` holds 12 fresh random bytes for each chunk. The result lies in ``into`` if that is large enough:
        zeroing a new buffer costs as much as the cipher.
        """
        chunk, length = self.chunk_size, len(plaintext)
        count = -(-length // chunk)
        size = length + count * CHUNK_OVERHEAD
        buffer = into if into is not None and len(into) >= size else bytearray(size)
        sealed, source = memoryview(buffer)[:size], memoryview(plaintext)
        seal_into, prefix = self._gcm.encrypt_into, self._prefix
        at = 0
        for number in range(count):
            nonce = nonces[number * NONCE_SIZE : (number + 1) * NONCE_SIZE]
            piece = source[number * chunk : (number + 1) * chunk]
            sealed[at : at + NONCE_SIZE] = nonce
            end = at + CHUNK_OVERHEAD + len(piece)
            seal_into(
                nonce, piece, prefix + (first + number).to_bytes(8, "big"), sealed[at + NONCE_SIZE : end]
            )
            at = end
        return sealed

    def open(self, first: int, sealed: bytes | bytearray, holes: Extents) -> bytearray:
        """Open a run of whole backing chunks (the last may be short), or raise IntegrityError.

        A chunk of zero bytes reads as zeros where ``holes`` covers it, and nowhere else.
        """
        chunk, stride = self.chunk_size, self.chunk_size + CHUNK_OVERHEAD
        whole, rest = divmod(len(sealed), stride)
        if 0 < rest <= CHUNK_OVERHEAD:
            raise IntegrityError(f"chunk {first + whole} is cut off")
        count = whole + (rest > 0)
        plaintext = bytearray(len(sealed) - count * CHUNK_OVERHEAD)
        view, source = memoryview(plaintext), memoryview(sealed)
        open_into, prefix = self._gcm.decrypt_into, self._prefix
        for number in range(count):
            at = number * stride
            body = source[at + NONCE_SIZE : at + stride]
            start = number * chunk
            if holes and first + number in holes and _is_zero(source[at : at + stride]):
                continue  # the buffer is zeros already
            try:
                open_into(
                    source[at : at + NONCE_SIZE],
                    body,
                    prefix + (first + number).to_bytes(8, "big"),
                    view[start : start + len(body) - TAG_SIZE],
                )
            except InvalidTag:
                raise IntegrityError(f"chunk {first + number} does not verify") from None
        return plaintext


def _is_zero(stored: memoryview) -> bool:
    return bytes(stored) == _ZEROS[: len(stored)]

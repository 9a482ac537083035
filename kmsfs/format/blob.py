"""The ciphertext blob: a wrapped data key, or up to 4096 encrypted bytes, that names its own key.

Bytes only, no keys. docs/ciphertext-blob.md is the specification. Everything before the ciphertext is the
head; the whole head and the canonical encryption context are the AAD. Whoever decrypts builds that head from
the region, account and key that it resolved itself and never from the blob's copy of the ARN.
"""

from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.ids import KeyArn, MaterialId

MAGIC = b"KMSB"
VERSION = 1
MATERIAL_ID_SIZE = 32
TAG_SIZE = 16
MAX_ARN_SIZE = 98  # a region name of 32 characters; keeps the blob of a 32-byte data key within a slot
MAX_PLAINTEXT_SIZE = 4096
MAX_BLOB_SIZE = 6144
_MAX_SEALED_SIZE = MAX_PLAINTEXT_SIZE + TAG_SIZE

_FIXED = Struct(">4sBBH")  # magic, version, suite, length of the ARN
_FIXED_SIZE = _FIXED.size
_ARN_SIZE = 7  # where that length stands, whose upper byte is 0: MAX_ARN_SIZE
_LEAST_PREFIX = _FIXED_SIZE + MATERIAL_ID_SIZE
_new = tuple.__new__  # what the constructor of a named tuple, a function of Python, calls
_CUT_SHORT = "ciphertext blob is cut short or has wrong lengths"


class Suite(IntEnum):
    """How the key material of a CMK encrypts."""

    HSM_GCM = 1  # AES-256 key; CKM_AES_GCM inside the HSM; nonce = 12-byte IV
    HSM_KDF = 2  # HMAC key; SP 800-108 inside the HSM, AES-GCM on the host; nonce = 16-byte N, 12-byte IV

    @property
    def nonce_size(self) -> int:
        """Bytes that stand between the head's fixed part and the ciphertext."""
        return NONCE_SIZES[self]


NONCE_SIZES = {Suite.HSM_GCM: 12, Suite.HSM_KDF: 28}
_SUITES = {int(suite): suite for suite in Suite}


class BlobHead(NamedTuple):
    """What a blob says of itself. Not authentic until the blob decrypts."""

    suite: Suite
    key_arn: KeyArn
    material_id: MaterialId


class Blob(NamedTuple):
    """A parsed blob: ``raw_head`` are the bytes of the head, nonce included; ``sealed`` is ciphertext || tag."""

    head: BlobHead
    raw_head: bytes
    nonce: bytes
    sealed: bytes


def head_prefix(head: BlobHead) -> bytes:
    """Return the head without its nonce: the same for every blob of one key material."""
    arn = head.key_arn.encode("ascii")
    if not 0 < len(arn) <= MAX_ARN_SIZE or len(head.material_id) != MATERIAL_ID_SIZE:
        raise FormatError("key ARN or material id does not fit into a ciphertext blob")
    return _FIXED.pack(MAGIC, VERSION, head.suite, len(arn)) + arn + head.material_id


def parse_blob(raw: bytes) -> Blob:
    """Split ``raw`` into head, nonce and sealed bytes, or raise FormatError."""
    size = len(raw)
    if not _FIXED_SIZE <= size <= MAX_BLOB_SIZE:
        raise FormatError(f"ciphertext blob is {size} bytes")
    nonce_start = _LEAST_PREFIX + raw[_ARN_SIZE]
    head, nonce_size = _parse_prefix(raw[:nonce_start])
    sealed_start = nonce_start + nonce_size
    if not TAG_SIZE < size - sealed_start <= _MAX_SEALED_SIZE:
        raise FormatError(_CUT_SHORT)
    return _new(Blob, (head, raw[:sealed_start], raw[nonce_start:sealed_start], raw[sealed_start:]))


@lru_cache(maxsize=1024)  # there is one for each key material
def _parse_prefix(raw: bytes) -> tuple[BlobHead, int]:
    """Read what ``head_prefix`` made; return the nonce's size, too."""
    magic, version, suite_number, arn_size = _FIXED.unpack_from(raw)
    if magic != MAGIC:
        raise FormatError("not a kmsfs ciphertext blob")
    if version != VERSION:
        raise UnsupportedFormatError(f"ciphertext blob version {version} is not supported")
    suite = _SUITES.get(suite_number)
    if suite is None:
        raise UnsupportedFormatError(f"ciphertext blob suite {suite_number} is not supported")
    arn_end = _FIXED_SIZE + arn_size
    if not 0 < arn_size <= MAX_ARN_SIZE or len(raw) != arn_end + MATERIAL_ID_SIZE:
        raise FormatError(_CUT_SHORT)
    try:
        arn = KeyArn(raw[_FIXED_SIZE:arn_end].decode("ascii"))
    except UnicodeDecodeError:
        raise FormatError("ciphertext blob's key ARN is not ASCII") from None
    return BlobHead(suite, arn, MaterialId(raw[arn_end:])), suite.nonce_size


def parse_blob_head(raw: bytes) -> BlobHead:
    """Return what the blob says of itself; needs no HSM and proves nothing."""
    return parse_blob(raw).head

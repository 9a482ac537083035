"""Where plain offsets live in a backing file.

Pure arithmetic: no I/O, no keys. The table in docs/format.md section 4 is this module's test.
"""

from kmsfs.errors import FormatError

HEADER_COPY_SIZE = 1024
HEADER_SIZE = 2 * HEADER_COPY_SIZE
NONCE_SIZE = 12
TAG_SIZE = 16
CHUNK_OVERHEAD = NONCE_SIZE + TAG_SIZE
CHUNK_SIZES = (4096, 16384, 65536)
MAX_CHUNKS = (1 << 48) - 1  # so that an extent of all of them has a 48-bit length


def check_chunk_size(chunk_size: int) -> int:
    """Return ``chunk_size`` if the format allows it, else raise FormatError."""
    if chunk_size not in CHUNK_SIZES:
        raise FormatError(f"chunk size {chunk_size} is none of {CHUNK_SIZES}")
    return chunk_size


def plain_size(backing_size: int, chunk_size: int) -> int:
    """Plain length of a regular file of ``backing_size`` bytes; a torn tail counts as nothing."""
    if backing_size <= HEADER_SIZE:
        return 0
    whole, rest = divmod(backing_size - HEADER_SIZE, chunk_size + CHUNK_OVERHEAD)
    return whole * chunk_size + max(0, rest - CHUNK_OVERHEAD)


def backing_size(plain_length: int, chunk_size: int) -> int:
    """Backing length, header included, of a file that has been written and holds ``plain_length`` bytes."""
    whole, rest = divmod(plain_length, chunk_size)
    return HEADER_SIZE + whole * (chunk_size + CHUNK_OVERHEAD) + (rest + CHUNK_OVERHEAD if rest else 0)


def chunk_offset(index: int, chunk_size: int) -> int:
    """Backing offset at which chunk ``index`` starts."""
    return HEADER_SIZE + index * (chunk_size + CHUNK_OVERHEAD)


def chunk_count(plain_length: int, chunk_size: int) -> int:
    """Number of chunks that hold ``plain_length`` bytes."""
    return -(-plain_length // chunk_size)


def max_plain_size(chunk_size: int) -> int:
    """Largest plain length whose backing offsets fit a signed 64-bit file size."""
    whole = ((1 << 63) - 1 - HEADER_SIZE) // (chunk_size + CHUNK_OVERHEAD)
    return min(whole, MAX_CHUNKS) * chunk_size

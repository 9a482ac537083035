"""The only source of randomness. Everything below the shells takes its nonces and keys as arguments."""

import os

NONCE_SIZE = 12


def random_bytes(count: int) -> bytes:
    """Return ``count`` bytes from the operating system's CSPRNG (getrandom(2))."""
    return os.urandom(count)

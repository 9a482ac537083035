"""The only source of randomness. Everything below the shells takes its nonces and keys as arguments."""

import os

NONCE_SIZE = 12


random_bytes = os.urandom  # of the operating system's CSPRNG: getrandom(2)

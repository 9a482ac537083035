"""Bounded: a fixed number of examples for each target, no clock. KMSFS_FUZZ_EXAMPLES asks for more of them."""

import os

from hypothesis import settings

settings.register_profile("fuzz", max_examples=int(os.environ.get("KMSFS_FUZZ_EXAMPLES", "300")))
settings.load_profile("fuzz")

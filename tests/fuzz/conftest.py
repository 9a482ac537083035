"""Bounded: a fixed number of examples for each target, no clock."""

from hypothesis import settings

settings.register_profile("fuzz", max_examples=300, deadline=None)
settings.load_profile("fuzz")

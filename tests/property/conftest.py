"""Bounded: a fixed number of examples for each property, no clock."""

from hypothesis import settings

settings.register_profile("property", max_examples=100)
settings.load_profile("property")

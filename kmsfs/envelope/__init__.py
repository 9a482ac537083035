"""Binds data keys, headers and chunks together."""

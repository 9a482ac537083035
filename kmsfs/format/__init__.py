"""Bytes only: parse and build every on-disk structure. No keys, no I/O."""

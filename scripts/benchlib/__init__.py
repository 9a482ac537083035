"""The measurements behind scripts/bench: one module per command, and what they share."""

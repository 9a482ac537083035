"""Commands, terminal output, exit codes."""

"""POSIX meaning of an encrypted tree, without FUSE."""

"""Waiting for processes that are not our children, by descriptor: a pid could be reused, this cannot."""

import os
import select


def open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def await_end(process: int, limit_s: float) -> bool:
    """Wait for the process of ``open_process`` and close the descriptor; False if it did not end in time."""
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))
    finally:
        os.close(process)

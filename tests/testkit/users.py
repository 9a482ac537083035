"""Being another user for a moment: in this process for what is already open, in a child for what the kernel checks."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def effective_user(uid: int = NOBODY) -> Iterator[None]:
    """Give root's powers up while the block runs. Descriptors stay open, so paths above them do not matter."""
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def as_user(call: Callable[[], object], uid: int = NOBODY, groups: Sequence[int] = ()) -> str:
    """The ``repr`` of the outcome of a call that a child makes as ``uid``, in group ``uid`` and in ``groups``."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        said = "the child did not get to its call"
        try:
            os.close(reader)
            os.setgroups(list(groups))
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said = repr(outcome(call))
        except BaseException as error:
            said = f"raised {error!r}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    return said

"""Programs that write to a mount until it dies under them, and say on stdout what is safe.

Run as ``python writers.py NAME DIRECTORY``. After each fsync that returned comes a line: a name and a number.
"""

import errno
import os
import sys
from collections.abc import Callable
from itertools import count

CONNECTION_IS_GONE = (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO)


def said(name: str, value: int) -> None:
    os.write(1, f"{name} {value}\n".encode())


def appends(top: str) -> None:
    files = [os.open(f"{top}/append-{number}", os.O_CREAT | os.O_WRONLY) for number in range(4)]
    for step in count():
        file = files[step % 4]
        os.write(file, b"%d," % step * 500)
        if step % 5 == 0:
            os.fsync(file)
            said(f"append-{step % 4}", os.lseek(file, 0, os.SEEK_CUR))


def overwrites(top: str) -> None:
    file = os.open(f"{top}/overwrite", os.O_CREAT | os.O_RDWR)
    os.write(file, bytes(97 * 4096))
    for step in count():
        os.pwrite(file, b"%8d" % step * 512, step % 97 * 4096)
        if step % 10 == 0:
            os.fsync(file)
            said("overwrite", step)


def truncates(top: str) -> None:
    file = os.open(f"{top}/truncate", os.O_CREAT | os.O_RDWR)
    for step in count():
        os.ftruncate(file, step * 7919 % 50_000)
        os.pwrite(file, b"t" * 3000, step * 104_729 % 60_000)
        if step % 10 == 0:
            os.fsync(file)
            said("truncate", step)


def new_files(top: str) -> None:
    for step in count():
        file = os.open(f"{top}/tmp-{step}", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"%6d" % step * 1000)
        os.fsync(file)
        os.close(file)
        os.rename(f"{top}/tmp-{step}", f"{top}/new-{step % 50}")
        said(f"new-{step % 50}", step)


def directories(top: str) -> None:
    os.mkdir(f"{top}/one")
    os.mkdir(f"{top}/two")
    for step in count():
        before, after = f"{top}/one/{step}", f"{top}/two/{'n' * 200}-{step}"
        os.mkdir(before)
        file = os.open(f"{before}/file", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"%d" % step)
        os.close(file)
        os.rename(before, after)
        if step % 3 == 0:
            os.unlink(f"{after}/file")
            os.rmdir(after)
        said("directories", step)


def moves(top: str) -> None:
    """Between ``eu`` and ``us``, two zones: each file is held open, written, synced and moved, again and again."""
    names = ["short", "n" * 200]
    files = {name: os.open(f"{top}/eu/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for name in names}
    for step in count():
        name = names[step % 2]
        here, there = ("eu", "us") if step // 2 % 2 == 0 else ("us", "eu")
        os.write(files[name], b"%d," % step * 500)
        if step % 3:
            os.fsync(files[name])
            said(name, os.lseek(files[name], 0, os.SEEK_CUR))
        os.rename(f"{top}/{here}/{name}", f"{top}/{there}/{name}")


WRITERS: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (appends, overwrites, truncates, new_files, directories, moves)
}


def is_mounted(top: str, device: int) -> bool:
    """Whether ``top`` is still what it was; a path looked up after the unmount is one in the bare mount point."""
    try:
        return os.stat(top).st_dev == device
    except OSError:
        return False


def main() -> None:
    top = sys.argv[2]
    device = os.stat(top).st_dev
    try:
        WRITERS[sys.argv[1]](top)
    except OSError as error:
        if error.errno not in CONNECTION_IS_GONE and is_mounted(top, device):
            raise


if __name__ == "__main__":
    main()

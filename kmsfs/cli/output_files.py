"""Output files: written whole, durably and for their owner alone, or not at all."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from kmsfs.errors import AlreadyExistsError, UsageError


def check_outputs(*paths: Path | None, force: bool) -> None:
    """Raise if one of them must not be written. To be asked before any key is used."""
    named = [path for path in paths if path is not None]
    if len({path.absolute() for path in named}) < len(named):
        raise UsageError(f"{named[0]} is named for two outputs", hint="name two files")
    for path in named:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path} exists and is not a regular file",
                hint="without the option, the output goes to stdout",
            )
        if not force:
            raise _exists(path)


def write_files(contents: Mapping[Path, bytes], *, force: bool) -> None:
    """Write the files. Each gets its name when all of them are on disk; ``force`` replaces what has the name."""
    from kmsfs.storage import durable

    staged: list[tuple[Path, bytes, int]] = []  # final path, temporary name, directory
    try:
        for path, content in contents.items():
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            staged.append((path, durable.temporary_name(), directory))
            _stage(*staged[-1], content)
        for path, temporary, directory in staged:
            _publish(path, temporary, directory, force=force)
    finally:
        for _, temporary, directory in staged:
            _discard(temporary, directory)


def _stage(path: Path, temporary: bytes, directory: int, content: bytes) -> None:
    from kmsfs.storage import durable

    try:
        durable.write_new(temporary, directory, content, 0o600)
    except OSError as error:  # the person knows the file by its final name
        raise OSError(error.errno, error.strerror, str(path)) from error


def _publish(path: Path, temporary: bytes, directory: int, *, force: bool) -> None:
    if force:
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    else:
        try:
            os.link(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            raise _exists(path) from None
    os.fsync(directory)


def _discard(temporary: bytes, directory: int) -> None:
    try:
        os.unlink(temporary, dir_fd=directory)
    except FileNotFoundError:
        pass  # it never came to be, or has its final name
    finally:
        os.close(directory)


def _exists(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f"{path} exists already", hint="--force replaces it")

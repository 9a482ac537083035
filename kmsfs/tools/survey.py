"""Looking at a whole tree without changing it: what a change would cost, and whether every file opens under one key."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from kmsfs.envelope.file_key import open_header
from kmsfs.errors import FormatError, IntegrityError, KmsfsError
from kmsfs.format import aad
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.tools.passes import Failure, reason
from kmsfs.tools.walk import Walk
from kmsfs.tree.directories import is_entry
from kmsfs.tree.rekey import is_current
from kmsfs.tree.zones import directories_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kmsfs.ids import KeyArn, TreeId
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.changes import Change, KeyedTree
    from kmsfs.tools.runners import Runner
    from kmsfs.tools.walk import FoundFile, Wanted

_SAMPLE: Final = 64  # files whose new headers are computed, and thrown away, to time it


def count_files(tree: Path) -> int:
    """About how many files a walk will find, without looking at any: for the bar that shows how far one is."""
    count = 0
    for place in directories_below(tree, lambda entry: is_entry(os.fsencode(entry.name))):
        with suppress(OSError), os.scandir(place.open()) as entries:  # what cannot be listed, the walk tells
            names = (entry.name for entry in entries if entry.is_file(follow_symlinks=False))
            count += sum(is_entry(os.fsencode(name)) for name in names)
    return count


@dataclass(slots=True)
class Plan:
    """What a change would do."""

    files: int = 0
    bytes: int = 0
    stale: int = 0
    hsm_calls: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


def plan(tree: KeyedTree, change: Change, runner: Runner, progress: Callable[[int], None]) -> Plan:
    """Walk the tree, and time a sample of what the HSM would be asked."""
    found = Plan()
    sample: list[tuple[bytes, Wanted]] = []
    started = time.monotonic()
    for file, raw, size in _headers(tree, change.wanted, found.failures):
        found.files += 1
        found.bytes += size
        targets = runner.targets(file.wanted)
        if raw and not is_current(raw, targets):
            found.stale += 1
            found.hsm_calls += 1 + len(targets)
            if len(sample) < _SAMPLE:
                sample.append((raw, file.wanted))
        progress(found.files)
    walked_s = time.monotonic() - started
    started = time.monotonic()
    if sample:
        runner.run(sample)
        each_s = (time.monotonic() - started) / len(sample)
        found.seconds = round(2 * walked_s + found.stale * each_s, 1)
    return found


@dataclass(slots=True)
class Verdict:
    """Whether files open under a key alone."""

    files: int = 0
    failures: list[Failure] = field(default_factory=list)


def verify(
    tree: KeyedTree, keystore: Keystore, key_arn: KeyArn, progress: Callable[[int, int], None]
) -> Verdict:
    """Open every file's header by the slot of one key, and see that it has no other. One HSM call a file."""
    verdict = Verdict()
    for file, raw, _ in _headers(tree, lambda zone: (key_arn,), verdict.failures):
        verdict.files += 1
        if raw:
            try:
                open_header(raw, partial(_unwrap, keystore, tree.block.tree_id, key_arn))
                _require_alone(raw, key_arn)
            except KmsfsError as error:
                verdict.failures.append(Failure(file.path, reason(error)))
        progress(verdict.files, len(verdict.failures))
    return verdict


def _require_alone(raw: bytes, key_arn: KeyArn) -> None:
    """See to the copy that was not opened, too: a stop in the middle of a batch leaves old slots in it."""
    for at in (0, HEADER_COPY_SIZE):
        try:
            header = FileHeader.parse(raw[at : at + HEADER_COPY_SIZE])
        except FormatError as error:
            raise IntegrityError(f"a copy of the file header is not whole: {error}") from error
        _require_slots(header, key_arn)


def _require_slots(header: FileHeader, key_arn: KeyArn) -> None:
    named = {parse_blob_head(blob).key_arn for blob in header.slots}
    if named != {key_arn}:
        others = ", ".join(sorted(named - {key_arn})) or "no key that can be read"
        raise IntegrityError(f"file is under {others}")


def _unwrap(keystore: Keystore, tree_id: TreeId, key_arn: KeyArn, header: FileHeader) -> bytes:
    _require_slots(header, key_arn)
    context = aad.file_context(tree_id, header.file_id)
    return keystore.unwrap_to_rewrap(header.slots[0], context, ref=key_arn)


def _headers(
    tree: KeyedTree, wanted: Callable[[str], Wanted], failures: list[Failure]
) -> Iterator[tuple[FoundFile, bytes, int]]:
    """Every file with its header bytes, none if it was never written, and its backing size."""

    def fail(path: bytes, error: Exception) -> None:
        failures.append(Failure(path, reason(error)))

    walk = Walk(tree.root_fd, tree.keys, wanted, on_directory=lambda directory: None, on_problem=fail)
    for file in walk.files():
        try:
            fd = tree.open(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            fail(file.path, error)
            continue
        try:
            raw, size = os.pread(fd, HEADER_SIZE, 0), os.fstat(fd).st_size
        finally:
            os.close(fd)
        yield file, raw, size

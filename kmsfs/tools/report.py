"""The report of a migration, for an auditor: what every file was under and is now, signed by the region it went to.

JSON lines, made of the journal alone (docs/operations.md says what is in them): the migration, each file by its id,
what was left behind, the totals. A signature and a public key lie beside it, for openssl; that key is the region's own
only if its token says so. A report that is there has been signed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

from kmsfs.errors import FormatError, IntegrityError, InvalidRequestError, KmsfsError, UnsupportedFormatError
from kmsfs.keystore.arn import parse_reference
from kmsfs.keystore.audit import timestamp
from kmsfs.tools import journal
from kmsfs.tools.journal import State
from kmsfs.tools.merged import Merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kmsfs.ids import Region
    from kmsfs.keystore.reports import ReportKey
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.journal import Reading, Slots

VERSION: Final = 1
NAME: Final = "report.jsonl"

_SIGNATURE: Final = ".sig"  # in place of the report's own suffix
_PUBLIC_KEY: Final = ".pem"
_MERGED: Final = "report.db"
_INCOMPLETE: Final = "incomplete"  # in place of the journal's running: nobody is at work on it
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_BUFFER: Final = 1 << 20
_LONGEST_HEAD: Final = 1 << 16
_LONGEST_PROOF: Final = 1 << 12  # of a signature or a public key


@dataclass(frozen=True, slots=True)
class Report:
    """A report that its region signed, and what its first record says."""

    path: Path
    key: ReportKey
    head: dict[str, Any]

    @property
    def signature(self) -> Path:
        """ECDSA over the report's SHA-256, DER."""
        return self.path.with_suffix(_SIGNATURE)

    @property
    def public_key(self) -> Path:
        """What verifies it, PEM."""
        return self.path.with_suffix(_PUBLIC_KEY)


def write(keystore: Keystore, directory: Path) -> Report:
    """Write the signed report of the migration whose journal is in ``directory``; nobody may be at work on it.

    InvalidRequestError if it was interrupted: what became of its last batch is not known then.
    """
    source, path = directory / journal.NAME, directory / NAME
    reading = journal.read(source)
    if reading.unsettled:
        raise InvalidRequestError(
            f"the migration in {directory} was interrupted",
            hint="go on with kmsfs migrate TREE --resume, or end it with --cancel, first",
        )
    region = _region(reading.task.to_key, path)
    with _Draft(path) as draft:
        with Merged(directory / _MERGED) as files:
            files.add(journal.moves(source))
            head = _head(reading, files.count)
            digest = draft.write(path, map(_line, _records(head, files, reading)))
        key, signature = keystore.sign_report(region, digest)
        report = Report(path, key, head)
        draft.write(report.signature, [signature])
        draft.write(report.public_key, [key.pem])
        draft.publish()
    return report


def verify(keystore: Keystore, path: Path) -> Report:
    """Return a report that the token of its region signed, and whose PEM file holds that token's key.

    IntegrityError if either is not so; FormatError if it is no report at all.
    """
    digest, first = _digest(path)
    head = _parse_head(first, path)
    region = _region(head.get("key_to"), path)
    signature, pem = (_read_proof(path.with_suffix(suffix)) for suffix in (_SIGNATURE, _PUBLIC_KEY))
    try:
        report = Report(path, keystore.verify_report(region, digest, signature), head)
    except IntegrityError:
        raise IntegrityError(
            f"report {path} with {path.with_suffix(_SIGNATURE).name} is not what region {region} signed",
            hint="do not rely on it: have it made again, with kmsfs report create TREE",
        ) from None
    if pem != report.key.pem:
        raise IntegrityError(
            f"{report.public_key} is not the report key of region {region}",
            hint=f"take the key from kmsfs report key --region {region}",
        )
    return report


# --- what is in it ------------------------------------------------------------------------------
def _records(head: dict[str, Any], files: Merged, reading: Reading) -> Iterator[dict[str, Any]]:
    yield head
    for file in files:
        yield {
            "record": "file",
            "file_id": file.file_id,
            "path": file.path,
            "old": _slots(file.old),
            "new": _slots(file.new),
        }
    for path, reason in reading.failed:
        yield {"record": "failure", "path": path, "reason": reason}
    yield {"record": "end", "files": files.count, "failures": len(reading.failed)}


def _head(reading: Reading, files: int) -> dict[str, Any]:
    task = reading.task
    return {
        "record": "migration",
        "kmsfs_report": VERSION,
        "migration_id": task.migration_id,
        "tree_id": task.tree_id,
        "tree": task.tree,
        "copy_of": task.copy_of or None,
        "key_to": task.to_key,
        "keys_from": list(task.from_keys),
        "reencrypt": task.reencrypt,
        "started": timestamp(task.started_at),
        "ended": timestamp(reading.at),
        "state": _INCOMPLETE if reading.state is State.RUNNING else reading.state.value,
        "files": files,
        "failures": len(reading.failed),
    }


def _slots(slots: Slots) -> list[dict[str, str]]:
    return [{"key_arn": key_arn, "material_id": material_id} for key_arn, material_id in slots]


def _line(record: dict[str, Any]) -> bytes:
    return _encode(record).encode() + b"\n"


def _parse_head(line: bytes, path: Path) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except ValueError:
        head = None
    version = head.get("kmsfs_report") if isinstance(head, dict) else None
    if not isinstance(version, int):
        raise FormatError(f"{path} is no report of a migration")
    if version > VERSION:
        raise UnsupportedFormatError(
            f"report {path} has version {version}, this kmsfs reads {VERSION}", hint="use a newer kmsfs"
        )
    return dict(head)


def _region(key_arn: object, path: Path) -> Region:
    """The region of the key that the files went to: the one that signs."""
    try:
        region = parse_reference(str(key_arn)).region
    except KmsfsError:
        region = None
    if region is None:
        raise FormatError(f"report {path} names no key that the files went to")
    return region


# --- its three files ----------------------------------------------------------------------------
class _Draft:
    """The three files of a report until all of them are whole. A context manager, which leaves no draft behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = (path.with_suffix(_SIGNATURE), path.with_suffix(_PUBLIC_KEY), path)

    def __enter__(self) -> Self:
        self._discard()
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def write(self, path: Path, chunks: Iterable[bytes]) -> bytes:
        """Write one of them, durably, for its owner alone; return the SHA-256 of what is in it."""
        digest = sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(_partial(path), flags, 0o600), "wb", _BUFFER) as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # the person knows the file by its final name
            raise OSError(error.errno, error.strerror, str(error.filename or path)) from error
        return digest.digest()

    def publish(self) -> None:
        """Give each its name, the report last: one that is there has its signature beside it, also after a crash."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._path.unlink(missing_ok=True)
            os.fsync(directory)
            for path in self._names:
                _partial(path).rename(path)
                os.fsync(directory)
        finally:
            os.close(directory)

    def _discard(self) -> None:
        for path in self._names:
            _partial(path).unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _digest(path: Path) -> tuple[bytes, bytes]:
    """The SHA-256 of a file, and its first line, read at once: what is told is what was verified."""
    digest = sha256()
    with path.open("rb", _BUFFER) as file:
        first = file.readline(_LONGEST_HEAD)
        digest.update(first)
        while chunk := file.read(_BUFFER):
            digest.update(chunk)
    return digest.digest(), first


def _read_proof(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LONGEST_PROOF)

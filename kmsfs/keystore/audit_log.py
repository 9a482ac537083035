"""The audit log of one region: a record for every use of a key, on disk before the answer leaves.

The rule: what cannot be recorded is refused. Each process writes a segment file of its own; when it ends, the next
one goes on with that segment. The metadata keep a checkpoint of each, so that a removed or cut segment shows.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import AuditUnavailableError, IntegrityError, KmsfsError
from kmsfs.format.aad import FILE_ID_PAIR
from kmsfs.keystore.arn import ROOT, principal_arn
from kmsfs.keystore.audit import (
    Actor,
    Chain,
    Event,
    Segment,
    audit_key_id,
    record_body,
    segment_message,
    segment_name,
)
from kmsfs.keystore.audit_files import SegmentFile, continued, create_file, open_file
from kmsfs.keystore.audit_key import make_audit_key_once
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import RegionConfig
from kmsfs.keystore.ports import Hsm
from kmsfs.keystore.rows import segment_values
from kmsfs.keystore.snapshot import Snapshot

MAX_SEGMENT_SIZE: Final = 4 << 20
ROOM: Final = 64 << 10  # bytes that must be free before a key's state is changed
INTERVAL_S: Final = 60.0  # between two checkpoints, and between two records of what is only counted
RETRY_S: Final = 1.0

log = logging.getLogger(__name__)

acting: ContextVar[Actor] = ContextVar("kmsfs_actor")


@contextmanager
def acting_for(actor: Actor) -> Iterator[None]:
    """Record what is done inside as done for ``actor``; by default it is the account root's, by this process."""
    token = acting.set(actor)
    try:
        yield
    finally:
        acting.reset(token)


@dataclass(slots=True)
class _Counted:
    event: Event
    uses: int


@dataclass(slots=True)
class Counting:
    """A log (port ``AuditSink``) whose records are counts."""

    itself: Actor
    record: Callable[[Event], None]


class AuditLog:
    """The log of one region (port ``AuditSink``). Thread-safe."""

    def __init__(
        self,
        directory: Path,
        config: RegionConfig,
        hsm: Hsm,
        ledger: Ledger,
        via: str,
        *,
        principal: str = ROOT,
        max_segment_size: int = MAX_SEGMENT_SIZE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._region = config.region
        self._hsm = hsm
        self._ledger = ledger
        self._max_size = self._full = max_segment_size
        self._clock = clock
        self.itself = Actor(principal_arn(config.account, principal), os.getuid(), via)
        self._housekeeping = RLock()  # taken before the next one, or without waiting
        self._lock = RLock()
        self._segment: SegmentFile | None = None
        self._counts: dict[tuple[object, ...], _Counted] = {}
        self._failure: OSError | KmsfsError | None = None
        self._failed_at = 0.0
        self._written_up = time.monotonic()  # when counts and checkpoint were last written
        self.counting = Counting(self.itself, self.count)  # for the uses that opening files makes

    @property
    def actor(self) -> Actor:
        """On whose behalf this thread or task works."""
        return acting.get(self.itself)

    # --- recording ------------------------------------------------------------------------------
    def record(self, event: Event) -> None:
        """Write one record. Raises AuditUnavailableError, and what opening a segment raises."""
        with self._lock:
            try:
                segment = self._segment or self._opened()
                segment.append(record_body(event, self._region, self._clock()))
            except OSError as error:
                self._let_go_if_torn()
                raise self._refusal(error) from error
        self._failure = None
        overgrown = segment.chain.size >= self._full + self._max_size
        if overgrown or time.monotonic() - self._written_up >= 2 * INTERVAL_S:
            self._keep_up()

    def count(self, event: Event) -> None:
        """Add to what one record says later on, within a minute: for uses that come by the thousand.

        What the encryption context says of the file is left out: it differs each time.
        """
        actor, action, key_arn, context, result, uses, _, _ = event
        shared = {**context}
        shared.pop(FILE_ID_PAIR, None)
        kind = (actor, action, key_arn, result, *shared.items())
        with self._lock:
            found = self._counts.get(kind)
            if found is None:
                event = event._replace(context=shared, since=self._clock())
                self._counts[kind] = _Counted(event, uses)
            else:
                found.uses += uses
        if time.monotonic() - self._written_up >= 2 * INTERVAL_S:
            self._keep_up()

    def prepare(self) -> None:
        """Raise if a record cannot be written now: to be asked before what cannot be taken back."""
        try:
            with self._lock:
                self._require_room(self._opened())
        except OSError as error:
            raise self._refusal(error) from error

    def check(self) -> None:
        """Raise AuditUnavailableError if the log could not be written lately. Costs nothing while it can."""
        if self._failure is None:
            return
        if time.monotonic() - self._failed_at >= RETRY_S:
            try:
                self._write_up()
            except (OSError, KmsfsError) as error:
                raise self._refusal(error) from error
        if self._failure is not None:
            raise self._unavailable(self._failure)

    # --- housekeeping ---------------------------------------------------------------------------
    def _keep_up(self) -> None:
        """Tend a log that nobody tends, as in a command that takes long, or not as fast as it grows.

        Never waits for who tends it.
        """
        if not self._housekeeping.acquire(blocking=False):
            return
        try:
            self.tend()
        finally:
            self._housekeeping.release()

    def tend(self) -> None:
        """Make records durable; once a minute also write the counts and a checkpoint, once full a new segment.

        To be called once a second, in a thread, by a process that stays. A failure shows in ``check``.
        """
        with self._housekeeping:
            due = time.monotonic() - self._written_up >= INTERVAL_S
            try:
                self._write_up(counts=due)
                self._sync()
            except (OSError, KmsfsError) as error:
                if self._failure is None:
                    log.error("audit log of region %s cannot be written: %s", self._region, _reason(error))
                self._note_failure(error)
                return
            try:
                segment = self._segment
                if segment is not None and segment.size >= self._full:
                    self._rotate()
                elif segment is not None and due:
                    self._put_checkpoint(segment)
            except (OSError, KmsfsError) as error:
                log.warning("audit log of region %s: no checkpoint: %s", self._region, error)

    def close(self) -> None:
        """Write what was counted and a checkpoint, and leave the segment to the next process."""
        with self._housekeeping, self._lock:
            try:
                self._write_counts()
                if self._segment is not None:
                    self._put_checkpoint(self._segment)
            except (OSError, KmsfsError) as error:
                log.error("audit log of region %s: not closed properly: %s", self._region, error)
            if self._segment is not None:
                self._segment.close()
            self._segment = None

    def _write_up(self, *, counts: bool = True) -> None:
        """See that records can be written, and write what was counted."""
        with self._lock:
            if self._segment is not None:
                self._require_room(self._segment)
            if counts or self._failure is not None:
                self._write_counts()
                self._written_up = time.monotonic()
        self._failure = None

    def _write_counts(self) -> None:
        try:
            for kind, found in list(self._counts.items()):
                event = found.event._replace(uses=found.uses)
                self._opened().append(record_body(event, self._region, self._clock()))
                del self._counts[kind]
        except OSError:
            self._let_go_if_torn()
            raise

    def _let_go_if_torn(self) -> None:
        """Leave a segment with a part of a record at its end to ``continued``, which cuts that off.

        Before the lock is: nobody may write behind that part.
        """
        if self._segment is not None and self._segment.is_torn():
            self._segment.close()
            self._segment = None

    def _sync(self) -> None:
        """fdatasync without the lock: nobody waits for the disk to record."""
        with self._lock:
            segment = self._segment
            if segment is None or segment.durable == segment.chain.records:
                return
            records, fd = segment.chain.records, os.dup(segment.fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        segment.durable = records

    def _require_room(self, segment: SegmentFile) -> None:
        status = os.fstatvfs(segment.fd)
        if status.f_bavail * status.f_frsize < ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _refusal(self, error: OSError | KmsfsError) -> AuditUnavailableError:
        self._note_failure(error)
        return self._unavailable(error)

    def _unavailable(self, error: OSError | KmsfsError) -> AuditUnavailableError:
        return AuditUnavailableError(
            f"audit log of region {self._region} cannot be written: {_reason(error)}",
            hint=f"no key is used before it can: see to {self._directory}",
        )

    def _note_failure(self, error: OSError | KmsfsError) -> None:
        self._failure, self._failed_at = error, time.monotonic()

    # --- segments -------------------------------------------------------------------------------
    def _opened(self) -> SegmentFile:
        if self._segment is None:
            self._segment = self._open()
        return self._segment

    def _open(self) -> SegmentFile:
        """Go on with a segment that nobody writes, or begin one."""
        known = self._ledger.snapshot.audit_segments
        if not known:
            make_audit_key_once(self._region, self._hsm, self._directory)
        for segment in sorted(known.values(), key=lambda segment: segment.opened_at):
            if segment.closed_at is None:
                file = self._continue(segment.segment_id)
                if file is not None:
                    return file
        return self._begin()

    def _continue(self, segment_id: str) -> SegmentFile | None:
        fd = open_file(self._directory, segment_id)
        if fd is None:
            return None
        try:
            # Only now: whoever held the lock until a moment ago wrote a checkpoint before giving it up.
            segment = self._ledger.reload().audit_segments.get(segment_id)
            if segment is not None and segment.closed_at is None:
                chain = continued(fd, self._first_key(segment_id), segment.checkpoint)
                file = SegmentFile(segment_id, segment.opened_at, fd, chain, segment.checkpoint)
                if chain.size < self._max_size:
                    return file
                self._put_checkpoint(file, closed_at=self._clock())
        except IntegrityError as error:
            log.error("audit log of region %s: segment %s: %s", self._region, segment_id, error)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _begin(self) -> SegmentFile:
        now = self._clock()
        segment_id = segment_name(now, random_bytes(8))
        fd = create_file(self._directory, segment_id)
        try:
            file = SegmentFile(segment_id, now, fd, Chain(self._first_key(segment_id)), None)
            self._put_checkpoint(file)
        except BaseException:
            os.close(fd)  # the file stays, empty: verification knows that this happens
            raise
        return file

    def _rotate(self) -> None:
        try:
            fresh = self._begin()
        except (OSError, KmsfsError) as error:
            log.warning("audit log of region %s: no new segment: %s", self._region, error)
            self._full += self._max_size  # not to try it again at each record
            return
        with self._lock:
            full, self._segment = self._segment, fresh
            self._full = self._max_size
        if full is not None:
            try:
                self._put_checkpoint(full, closed_at=self._clock())
            except (OSError, KmsfsError) as error:  # what was recorded is; who goes on with it closes it
                log.warning("audit log of region %s: segment not closed: %s", self._region, _reason(error))
            finally:
                full.close()

    def _put_checkpoint(self, file: SegmentFile, *, closed_at: float | None = None) -> None:
        """Tell the metadata how far the segment has come, once that is durable."""
        with self._lock:
            checkpoint = file.chain.checkpoint
        if checkpoint == file.checkpoint and closed_at is None:
            return
        os.fdatasync(file.fd)
        segment = Segment(file.segment_id, file.opened_at, closed_at, checkpoint)

        def decide(snapshot: Snapshot) -> Changes:
            known = snapshot.audit_segments.get(segment.segment_id)
            if known is not None and (known.closed_at or known.checkpoint.records > checkpoint.records):
                return Changes()  # another process went on with it
            return Changes(puts=[("audit_segments", segment_values(self._region, segment))])

        self._ledger.commit(decide)
        file.checkpoint = checkpoint

    def _first_key(self, segment_id: str) -> bytes:
        return self._hsm.hmac(audit_key_id(self._region), segment_message(self._region, segment_id))


def _reason(error: OSError | KmsfsError) -> str:
    return os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)

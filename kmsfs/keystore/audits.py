"""The audit logs of a keystore's regions, and the hooks through which every use and change of a key goes."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from kmsfs.errors import KmsfsError
from kmsfs.ids import KeyArn, KeyId, Region
from kmsfs.keystore.arn import ROOT
from kmsfs.keystore.audit import DONE, Actor, Event
from kmsfs.keystore.audit_log import AuditLog, acting, acting_for
from kmsfs.keystore.audit_verify import SegmentFinding, read_records, verify_log
from kmsfs.keystore.authorize import NO_CONTEXT, NOTHING
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.last_use import KeyUsageHistory, usage_history
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.ports import AuditSink
from kmsfs.keystore.recording import Batch, Permit, Recording, Refusal, record_failure
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.transitions import Purpose

ITSELF: Final = "kmsfs"  # on whose behalf the keystore does what is due, whoever's request comes just then

T = TypeVar("T")

log = logging.getLogger(__name__)
_new = tuple.__new__  # what a named tuple's constructor, a function of Python, calls
_ONE: Final = tuple(Event._field_defaults.values())


class Audits:
    """One log for each region that is in use.

    What is done inside ``with audits.use(...)`` is recorded; a single use of a key by ``refusal`` and ``recorded``.
    """

    def __init__(self, home: Path, via: str, principal: str = ROOT, *, permit: Permit | None = None) -> None:
        """``permit`` is asked before a key is used or changed."""
        self._home = home
        self._via = via
        self._principal = principal
        self._permit = permit
        self._logs: dict[str, AuditLog] = {}

    def add(self, service: RegionService) -> None:
        """Take up a region; nothing is opened before something is to be recorded."""
        region = service.config.region
        directory = audit_path(self._home, region)
        self._logs[region] = AuditLog(
            directory, service.config, service.hsm, service.ledger, self._via, principal=self._principal
        )
        service.lifecycle.on_event = partial(self._note, service)

    def _note(self, service: RegionService, action: str, key_id: KeyId) -> None:
        """Record what the keystore did by itself. It cannot be taken back: a log that is full does not stop it."""
        try:
            with (
                acting_for(Actor(ITSELF, os.getuid(), self._via)),
                Recording(self._logs[service.config.region], None, service, action, key_id, {}),
            ):
                pass
        except KmsfsError as error:
            log.error("%s of key %s could not be recorded: %s", action, key_id, error)

    def use(
        self,
        service: RegionService,
        action: str,
        key_id: KeyId | None,
        context: Mapping[str, str],
        parameters: Context = NO_CONTEXT,
    ) -> Recording:
        """One use of a key, or many in one record. A key that is known only inside is set there."""
        log = self._logs[service.config.region]
        return Recording(log, self._permit, service, action, key_id, context, parameters)

    def uses(
        self, service: RegionService, action: str, key_id: KeyId, contexts: Sequence[Mapping[str, str]]
    ) -> Recording:
        """Many uses of one key, in one record: each is asked for, and what their contexts share is recorded."""
        log, shared = self._logs[service.config.region], _shared_pairs(contexts)
        batch = Batch(log, self._permit, service, action, key_id, shared)
        batch.contexts = contexts
        return batch

    def refusal(
        self,
        purpose: Purpose,
        service: RegionService,
        key_id: KeyId | None,
        context: Mapping[str, str],
        parameters: Context,
    ) -> Recording:
        """The admission of a use: ``with`` it, a refusal is recorded. ``recorded`` is for the use itself."""
        sink = self._sink(purpose, service)
        return Refusal(sink, self._permit, service, purpose.action, key_id, context, parameters)

    def recorded(
        self,
        purpose: Purpose,
        service: RegionService,
        arn: KeyArn,
        context: Mapping[str, str],
        use: Callable[..., T],
        *arguments: object,
    ) -> T:
        """Return what ``use`` makes of ``arguments``: one use of a key that was admitted."""
        sink = self._sink(purpose, service)
        actor, action = acting.get(sink.itself), purpose.action
        try:
            answer = use(*arguments)
        except BaseException as error:
            record_failure(sink, Event(actor, action, arn, context, type(error).__name__))
            raise
        sink.record(_new(Event, (actor, action, arn, context, DONE, *_ONE)))
        return answer

    def _sink(self, purpose: Purpose, service: RegionService) -> AuditSink:
        log = self._logs[service.config.region]
        return log.counting if purpose.counted else log

    def change(
        self,
        service: RegionService,
        action: str,
        key_id: KeyId | None,
        parameters: Context = NO_CONTEXT,
        /,
        **details: str,
    ) -> Recording:
        """One change of a key or alias. It is not begun if it could not be recorded."""
        self._logs[service.config.region].prepare()
        change = self.use(service, action, key_id, {}, parameters)
        change.details = details
        return change

    def count(
        self, arn: KeyArn, action: str, context: Mapping[str, str], *, uid: int, result: str, uses: int
    ) -> None:
        """Count uses that are alike, by one user; they are recorded once a minute. A foreign ARN has no log here."""
        log = self._logs.get(arn.split(":")[3]) if arn.count(":") > 3 else None
        if log is not None:
            log.count(Event(log.actor._replace(uid=uid), action, arn, context, result, uses))

    def check(self, service: RegionService) -> None:
        """Raise AuditUnavailableError if the region's log could not be written lately."""
        self._logs[service.config.region].check()

    def verify(self, service: RegionService) -> list[SegmentFinding]:
        """Check a region's log; see ``verify_log``."""
        return verify_log(audit_path(self._home, service.config.region), service)

    def usage_history(self, service: RegionService, key: KeyMetadata, now: float) -> KeyUsageHistory:
        """Return when a key was last used; see last_use.py."""
        directory = audit_path(self._home, service.config.region)
        return usage_history(directory, key, service.snapshot.audit_segments, now)

    def read(self, region: Region) -> Iterator[dict[str, Any]]:
        """Yield the records of a region's log; see ``read_records``."""
        return read_records(audit_path(self._home, region))

    def tend(self) -> None:
        """See ``AuditLog.tend``."""
        for log in list(self._logs.values()):
            log.tend()

    def close(self) -> None:
        """Close every log. The tokens and the metadata must still be there."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()


def _shared_pairs(contexts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the pairs that all of the contexts have."""
    return {
        name: value
        for name, value in (contexts[0] if contexts else NOTHING).items()
        if all(context.get(name) == value for context in contexts)
    }

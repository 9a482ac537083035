"""The hook between keys and the audit log: what uses or changes a key happens inside a ``Recording``.

A single use is admitted inside one, and then recorded in the same way by ``Audits.recorded``.

The record is written when the use has ended and before its answer leaves. A use that failed keeps its own error.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from kmsfs.errors import KmsfsError
from kmsfs.ids import KeyArn, KeyId
from kmsfs.keystore.arn import key_arn
from kmsfs.keystore.audit import DONE, Event
from kmsfs.keystore.audit_log import acting
from kmsfs.keystore.authorize import NO_CONTEXT, NOTHING
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.policy.context import merge, parameter
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.ports import AuditSink
from kmsfs.keystore.region import RegionService

Permit = Callable[[RegionService, str, Mapping[str, str], KeyId, Context], None]

log = logging.getLogger(__name__)


class Recording:
    """One use of a key; a context manager. What is not known before is set inside.

    ``permit`` raises if the key may not be used so; None: that was decided before. ``parameters`` are what else it
    is told: the condition keys that stand for what is asked for.
    """

    uses = 1
    details: Mapping[str, str] = NOTHING
    key_arn: KeyArn | None = None
    moves_to: KeyArn | None = None  # the key under which the plaintext is to be next, if that is known

    def __init__(
        self,
        sink: AuditSink,
        permit: Permit | None,
        service: RegionService,
        action: str,
        key_id: KeyId | None,
        context: Mapping[str, str],
        parameters: Context = NO_CONTEXT,
    ) -> None:
        self._sink = sink
        self._service = service
        self._action = action
        self._key_id = key_id
        self._permit = permit
        self._parameters = parameters
        self.context = context

    def __enter__(self) -> Self:
        if self._key_id is not None:
            config = self._service.config
            self.key_arn = key_arn(config.region, config.account, self._key_id)
            if self._permit is not None:
                try:
                    self._ask(self._permit, self._key_id)
                except KmsfsError as error:
                    self.__exit__(type(error), error, error.__traceback__)
                    raise
        return self

    def found(self, key: KeyMetadata) -> None:
        """The key that is used turned out to be this one: ask whether it may be."""
        self.key_arn = key.arn
        if self._permit is not None:
            if self.moves_to is not None:
                same = parameter("kms:ReEncryptOnSameKey", key.arn == self.moves_to)
                self._parameters = merge(self._parameters, same)
            self._ask(self._permit, key.key_id)

    def _ask(self, permit: Permit, key_id: KeyId) -> None:
        permit(self._service, self._action, self.context, key_id, self._parameters)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = DONE if kind is None else kind.__name__
        event = Event(
            acting.get(self._sink.itself),
            self._action,
            self.key_arn,
            self.context,
            result,
            self.uses,
            self.details,
        )
        if kind is None:
            self._sink.record(event)
        else:
            record_failure(self._sink, event)


class Refusal(Recording):
    """What precedes a use: recorded if the use is refused here, else left to the record of the use itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            super().__exit__(kind, error, trace)


class Batch(Recording):
    """Uses in several contexts: each is asked for."""

    contexts: Sequence[Mapping[str, str]] = ()

    def _ask(self, permit: Permit, key_id: KeyId) -> None:
        for context in self.contexts:
            try:
                permit(self._service, self._action, context, key_id, NO_CONTEXT)
            except KmsfsError:
                self.context = context  # what is recorded is the one that was refused
                raise


def record_failure(sink: AuditSink, event: Event) -> None:
    """Record a use that failed, if that is possible: its own error is what the caller gets."""
    try:
        sink.record(event)
    except KmsfsError as error:
        log.info("%s was refused (%s) and could not be recorded: %s", event.action, event.result, error)

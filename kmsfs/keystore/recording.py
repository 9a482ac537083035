"""The hook between keys and the audit log: everything that uses or changes a key happens inside a ``Recording``.

The record is written when the use has ended and before its answer leaves. A use that failed keeps its own error.
"""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from kmsfs.errors import KmsfsError
from kmsfs.ids import KeyArn, KeyId
from kmsfs.keystore.audit import DONE, Event
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.ports import AuditSink

log = logging.getLogger(__name__)


class Recording:
    """One use of a key; a context manager. What is not known before is set inside."""

    __slots__ = ("_action", "_sink", "context", "details", "key_arn", "key_id", "permit", "uses", "write")

    def __init__(
        self, sink: AuditSink, action: str, key_arn: KeyArn | None, context: Mapping[str, str]
    ) -> None:
        self._sink = sink
        self.write: Callable[[Event], None] = sink.record
        self._action = action
        self.context = context
        self.key_arn = key_arn
        self.uses = 1
        self.permit: Callable[[KeyId], None] | None = None  # raises if the key may not be used so
        self.key_id: KeyId | None = None
        self.details: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        if self.permit is not None and self.key_id is not None:
            try:
                self.permit(self.key_id)
            except KmsfsError as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def found(self, key: KeyMetadata) -> None:
        """The key that is used turned out to be this one: ask whether it may be."""
        self.key_arn = key.arn
        if self.permit is not None:
            self.permit(key.key_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        result = DONE if kind is None else kind.__name__
        event = Event(
            self._sink.actor, self._action, self.key_arn, self.context, result, self.uses, self.details
        )
        if kind is None:
            self.write(event)
            return
        try:
            self.write(event)
        except KmsfsError as unrecorded:
            log.info("%s was refused (%s) and could not be recorded: %s", self._action, result, unrecorded)

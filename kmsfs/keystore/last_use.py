"""When a key was last used, as the audit log on this host says. Needs no HSM, and verifies nothing.

The rule: what may have been used unseen is not called unused. Where a file of the log is not here, be it in an
archive or on another host, tracking starts behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kmsfs.errors import IntegrityError
from kmsfs.ids import KeyArn
from kmsfs.keystore.audit import DONE, Segment, epoch, parse_record
from kmsfs.keystore.audit_files import read_file, segment_times
from kmsfs.keystore.model import KeyMetadata

#: What AWS calls the actions that the log says. Nothing else uses a key.
OPERATIONS: Final = {
    "Encrypt": "Encrypt",
    "Decrypt": "Decrypt",
    "ReEncryptFrom": "ReEncrypt",
    "ReEncryptTo": "ReEncrypt",
    "GenerateDataKey": "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext": "GenerateDataKeyWithoutPlaintext",
    "GenerateMac": "GenerateMac",
    "VerifyMac": "VerifyMac",
}
_MTIME_SLACK_S: Final = 1.0  # a file's time may lag a little behind that of its last record


@dataclass(frozen=True, slots=True)
class LastUse:
    """The last successful use of a key that was recorded; the request's id if a request asked for it."""

    operation: str
    at: float
    request_id: str | None

    def to_aws(self) -> dict[str, object]:
        """Return AWS's KeyLastUsageData structure."""
        data: dict[str, object] = {"Operation": self.operation, "Timestamp": self.at}
        return data if self.request_id is None else {**data, "KmsRequestId": self.request_id}


@dataclass(frozen=True, slots=True)
class KeyUsageHistory:
    """What is known about the use of a key since ``tracked_since``."""

    key: KeyMetadata
    tracked_since: float
    last: LastUse | None

    def to_aws(self) -> dict[str, object]:
        """Return AWS's answer to GetKeyLastUsage."""
        return {
            "KeyId": self.key.key_id,
            "KeyLastUsage": {} if self.last is None else self.last.to_aws(),
            "TrackingStartDate": self.tracked_since,
            "KeyCreationDate": self.key.created_at,
        }


def usage_history(
    directory: Path, key: KeyMetadata, known: Mapping[str, Segment], now: float
) -> KeyUsageHistory:
    """Return what the log in ``directory`` says of a key; ``known`` is what the metadata know of the log."""
    written = segment_times(directory)
    unseen = [
        now if segment.closed_at is None else segment.closed_at
        for name, segment in known.items()
        if name not in written
    ]
    return KeyUsageHistory(key, max([key.created_at, *unseen]), _last_use(directory, written, key.arn))


def _last_use(directory: Path, written: Mapping[str, float], arn: KeyArn) -> LastUse | None:
    """Look into the files that were written last first, until no other can hold a later use."""
    last: LastUse | None = None
    for name in sorted(written, key=written.__getitem__, reverse=True):
        if last is not None and last.at > written[name] + _MTIME_SLACK_S:
            break
        found = _last_in(read_file(directory, name), arn)
        if found is not None and (last is None or found.at > last.at):
            last = found
    return last


def _last_in(raw: bytes, arn: KeyArn) -> LastUse | None:
    """Return the last use of a key in a file: its lines are in the order of time."""
    mark = f'"key":"{arn}"'.encode()
    end = raw.rfind(b"\n") + 1  # behind it is what is just being written
    while (place := raw.rfind(mark, 0, end)) >= 0:
        end = raw.rfind(b"\n", 0, place) + 1
        try:
            record = parse_record(raw[end : raw.index(b"\n", place)])
        except IntegrityError:
            continue
        if record.get("key") == arn and record.get("result") == DONE and record.get("action") in OPERATIONS:
            return _use(record)
    return None


def _use(record: Mapping[str, Any]) -> LastUse:
    return LastUse(OPERATIONS[record["action"]], epoch(record["time"]), record.get("request_id"))

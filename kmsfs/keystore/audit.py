"""What the audit log says, and the chain of MACs that binds its records (docs/keystore.md). Pure.

Each record is authenticated under a key of its own, and the next key is that one's hash. A key is dropped as soon as
it was used: who reads a process's memory later cannot rewrite what it recorded before. The first key of a segment comes
from the token.
"""

import json
from binascii import hexlify
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from kmsfs.crypto.kdf import BegunHmac, begin_hmac, equal
from kmsfs.errors import IntegrityError
from kmsfs.ids import KeyArn, Region

DONE: Final = "ok"
START_MAC: Final = bytes(32)

_AHEAD: Final = 32
_LEADING_ONE: Final = 10**17  # more than the microseconds of any time: leaves all their zeros in place
_NEXT: Final = b"kmsfs audit next"
_SEGMENT: Final = b"kmsfs audit segment v1"
_MAC_START: Final = b',"mac":"'
_MAC_END: Final = b'"}\n'
_TAIL_SIZE: Final = len(_MAC_START) + 64 + len(_MAC_END)
_text: Final = json.encoder.encode_basestring_ascii


class Actor(NamedTuple):
    """On whose behalf a key is used: the principal, the user of the operating system, and through what."""

    principal: str
    uid: int
    via: str
    request_id: str = ""


class Event(NamedTuple):
    """One use of a key, or ``uses`` like ones since ``since``; ``details`` holds no secret and no file name."""

    actor: Actor
    action: str
    key_arn: KeyArn | None
    context: Mapping[str, str]
    result: str
    uses: int = 1
    details: Mapping[str, str] = {}
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a segment's chain had come: what must still be there later."""

    records: int = 0
    size: int = 0
    mac: bytes = START_MAC


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log as the metadata knows it. Once closed, it ends at its checkpoint."""

    segment_id: str
    opened_at: float
    closed_at: float | None
    checkpoint: Checkpoint


class Chain:
    """Where a segment's chain stands: the keys of the records to come, and the last record's MAC."""

    __slots__ = ("_ahead", "_key", "_keys", "_next_mac", "mac", "records", "size")

    def __init__(self, first_key: bytes, at: Checkpoint = Checkpoint()) -> None:
        self._key = first_key
        for _ in range(at.records):
            self._key = _next_key(self._key)
        self.records, self.size, self.mac = at.records, at.size, at.mac
        self._keys: list[bytes] = []  # of the next records, the first one last; _key follows these
        self._ahead: list[BegunHmac] = []  # the same made ready; without the first one once ``line`` used it
        self._next_mac = START_MAC

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the chain stands, to be kept."""
        return Checkpoint(self.records, self.size, self.mac)

    def line(self, body: bytes) -> bytes:
        """Return the record of ``body``. The chain stays where it is until ``advance``."""
        if not self._keys:
            self._look_ahead()
        ready = len(self._ahead) == len(self._keys)
        inner, outer = self._ahead.pop() if ready else begin_hmac(self._keys[-1])
        inner.update(self.mac + body)
        outer.update(inner.digest())
        mac = self._next_mac = outer.digest()
        return body + _MAC_START + hexlify(mac) + _MAC_END

    def advance(self, line: bytes) -> None:
        """Go on behind what ``line`` returned last, which is written now."""
        self._keys.pop()
        self.mac = self._next_mac
        self.records += 1
        self.size += len(line)

    def is_next(self, line: bytes) -> bool:
        """Return whether ``line`` is an authentic record that belongs here."""
        return equal(line, self.line(line[:-_TAIL_SIZE]))

    def check(self, line: bytes) -> None:
        """Go on behind ``line``, or raise IntegrityError if it is not the next record."""
        if not self.is_next(line):
            raise IntegrityError(f"record {self.records + 1} is not authentic")
        self.advance(line)

    def _look_ahead(self) -> None:
        """Work out some keys at once: between two uses of a token, it takes several times as long for each."""
        for _ in range(_AHEAD):
            self._keys.append(self._key)
            self._key = _next_key(self._key)
        self._keys.reverse()
        self._ahead = [begin_hmac(key) for key in self._keys]


def audit_key_id(region: Region) -> bytes:
    """Return the CKA_ID of the key that authenticates the region's audit log."""
    return sha256(b"kmsfs audit key\0" + region.encode()).digest()


def segment_name(now: float, salt: bytes) -> str:
    """Return the name of a segment that begins now: names sort by time."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%fZ}-{salt.hex()}"


def segment_message(region: Region, segment_id: str) -> bytes:
    """Return the message whose HMAC under the audit key is the segment's first key."""
    return b"\0".join((_SEGMENT, region.encode(), segment_id.encode()))


def record_body(event: Event, region: Region, now: float) -> bytes:
    """Return a record as it is authenticated: JSON, but for the closing brace that follows the MAC."""
    (principal, uid, via, request_id), action, key_arn, context, result, uses, details, since = event
    facts = _facts(principal, uid, via, action, key_arn, region, result, uses, tuple(context.items()))
    body = f'{{"time":"{timestamp(now)}",{facts}'
    if since is not None:
        body += f',"since":"{timestamp(since)}"'
    if request_id:
        body += f',"request_id":{_text(request_id)}'
    if details:
        body += f',"details":{_object(details.items())}'
    return body.encode()


@lru_cache(maxsize=1024)
def _facts(
    principal: str,
    uid: int,
    via: str,
    action: str,
    key_arn: str | None,
    region: str,
    result: str,
    uses: int,
    context: tuple[tuple[str, str], ...],
) -> str:
    """Return what follows the time: mostly the same as in a record before."""
    return f"{_head(principal, uid, via, action, key_arn, region, result, uses)}{_object(context)}"


@lru_cache(maxsize=256)
def _head(
    principal: str, uid: int, via: str, action: str, key_arn: str | None, region: str, result: str, uses: int
) -> str:
    members = {
        "principal": principal,
        "uid": uid,
        "via": via,
        "action": action,
        "key": key_arn,
        "region": region,
        "result": result,
        "count": uses,
    }
    return f'{json.dumps(members, separators=(",", ":"))[1:-1]},"context":'


def _object(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{{','.join([f'{_text(name)}:{_text(value)}' for name, value in pairs])}}}"


def parse_record(line: bytes) -> dict[str, Any]:
    """Return a line's members, the MAC included; raise IntegrityError if it is no record."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise IntegrityError("line is no record") from error
    if not isinstance(record, dict):
        raise IntegrityError("line is no record")
    return record


def timestamp(epoch_s: float) -> str:
    """Return a time as records have it: UTC, with microseconds."""
    digits = str(_LEADING_ONE + int(epoch_s * 1_000_000))  # cut up: to format numbers takes twice as long
    return f"{_second(digits[1:-6])}.{digits[-6:]}Z"


def epoch(text: str) -> float:
    """Return the time that ``timestamp`` made a text of."""
    return datetime.fromisoformat(text).timestamp()


@lru_cache(maxsize=8)
def _second(digits: str) -> str:
    return datetime.fromtimestamp(int(digits), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _next_key(key: bytes) -> bytes:
    return sha256(_NEXT + key).digest()

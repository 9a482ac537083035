"""Reading the audit log: whether it is whole and authentic, and what it says. Changes nothing.

What each segment must hold is in the metadata, which are authenticated themselves; its first key comes from the token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kmsfs.errors import AuditBrokenError, IntegrityError
from kmsfs.ids import Region
from kmsfs.keystore.audit import Chain, Checkpoint, Segment, audit_key_id, parse_record, segment_message
from kmsfs.keystore.audit_files import follow, read_file, segment_sizes, whole_lines
from kmsfs.keystore.region import RegionService

CLOSED: Final = "closed"
OPEN: Final = "open"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class SegmentFinding:
    """What was found of one segment: ``problem`` is empty if it is as it was written."""

    region: Region
    segment: str
    state: str
    records: int
    unconfirmed: int  # records behind the checkpoint: nobody would notice if they were cut off
    problem: str
    remark: str = ""


def verify_log(directory: Path, service: RegionService) -> list[SegmentFinding]:
    """Check every segment of a region's log, oldest first."""
    # In this order: a segment is known to the metadata before its first record is written.
    sizes = segment_sizes(directory)
    known = service.ledger.reload().audit_segments
    strangers = [name for name, size in sizes.items() if size and name not in known]
    findings = [_verify(directory, service, segment) for segment in known.values()]
    findings += [
        SegmentFinding(
            service.config.region, name, UNKNOWN, 0, 0, "the metadata do not know it: they were set back"
        )
        for name in strangers
    ]
    return sorted(findings, key=lambda finding: finding.segment)


def read_records(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a region's log, segment by segment. They are not verified."""
    for name in segment_sizes(directory):
        for number, line in enumerate(whole_lines(read_file(directory, name)), 1):
            try:
                yield parse_record(line)
            except IntegrityError as error:
                raise AuditBrokenError(
                    f"audit log segment {name}: line {number} is no record", hint="run kmsfs audit verify"
                ) from error


def _verify(directory: Path, service: RegionService, segment: Segment) -> SegmentFinding:
    region, name, confirmed = service.config.region, segment.segment_id, segment.checkpoint
    state = OPEN if segment.closed_at is None else CLOSED
    chain = Chain(service.hsm.hmac(audit_key_id(region), segment_message(region, name)))
    problem = remark = ""
    try:
        rest = _follow(chain, read_file(directory, name), confirmed)
        if segment.closed_at is not None and (rest or chain.records > confirmed.records):
            problem = f"something was added behind its {confirmed.records} records"
        elif rest:
            remark = "its last record is unfinished: it is being written, or its writer was killed"
    except FileNotFoundError:
        problem = f"its file with {confirmed.records} records is missing"
    except IntegrityError as error:
        problem = str(error)
    unconfirmed = 0 if problem else chain.records - confirmed.records
    return SegmentFinding(region, name, state, chain.records, unconfirmed, problem, remark)


def _follow(chain: Chain, raw: bytes, confirmed: Checkpoint) -> bytes:
    """Check the records up to the checkpoint and then those behind it; return the unfinished last one."""
    follow(chain, raw[: confirmed.size])
    if chain.records < confirmed.records:
        raise IntegrityError(
            f"{confirmed.records - chain.records} of {confirmed.records} records are missing"
        )
    if chain.checkpoint != confirmed:
        raise IntegrityError("it is not the segment that the metadata know")
    return follow(chain, raw[confirmed.size :])

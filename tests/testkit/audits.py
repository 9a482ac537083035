"""What tests ask of audit logs: a log without a keystore, and the records and files of a home's log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmsfs.ids import Region
from kmsfs.keystore.audit import DONE, Actor, Chain, Checkpoint, Event, record_body
from kmsfs.keystore.home import audit_path

REGION = Region("eu-west-1")
ACTOR = Actor("arn:aws:iam::000000000000:root", 1000, "cli")
FIRST_KEY = bytes(range(32))


def segment(count: int) -> tuple[list[bytes], Checkpoint]:
    """The lines of a segment of ``count`` records, and where it ends."""
    chain = Chain(FIRST_KEY)
    lines = []
    for number in range(count):
        event = Event(ACTOR, "Decrypt", None, {"number": str(number)}, DONE)
        lines.append(chain.line(record_body(event, REGION, 1e9 + number)))
        chain.advance(lines[-1])
    return lines, chain.checkpoint


def files(home: Path, region: str = REGION) -> list[Path]:
    """The segment files of a region's log, oldest first."""
    return sorted(audit_path(home, Region(region)).glob("*.jsonl"))


def records(home: Path, region: str = REGION) -> list[dict[str, Any]]:
    """The records of a region's log in the order of its files."""
    return [json.loads(line) for path in files(home, region) for line in path.read_text().splitlines()]


def said(home: Path, region: str = REGION) -> Iterator[tuple[str, str, int]]:
    """Action, result and count of each record."""
    return ((found["action"], found["result"], found["count"]) for found in records(home, region))


def results(home: Path, action: str, region: str = REGION) -> list[tuple[str, str]]:
    """Who did an action, and how it ended, each time."""
    return [
        (found["principal"], found["result"]) for found in records(home, region) if found["action"] == action
    ]

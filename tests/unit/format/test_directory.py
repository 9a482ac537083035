"""The directory record's bytes, and where a directory may stand."""

import pytest
from testkit.golden import CHILD_ID, KEY_ARN, NO_PARENT, OTHER_ID, ROOT_ID, sample_directory

from kmsfs.errors import FormatError
from kmsfs.format.directory import DirectoryRecord, record_mac
from kmsfs.ids import DirId


def test_fields_lie_where_the_specification_says() -> None:
    raw = sample_directory().pack() + bytes(32)
    covered, mac = record_mac(raw)
    assert (len(covered), len(mac)) == (352, 32)
    assert raw[:12] == b"KMSFSDIR\0\1\0\0"
    assert (raw[12:28], raw[28:44], raw[44:60]) == (CHILD_ID, ROOT_ID, OTHER_ID)
    assert raw[60:62] == len(KEY_ARN).to_bytes(2)
    assert raw[62:318] == KEY_ARN.encode().ljust(256, b"\0")
    assert not any(raw[318:])


@pytest.mark.parametrize("zone", ["", "x", "x" * 256])
def test_record_survives_the_round_trip(zone: str) -> None:
    record = DirectoryRecord(CHILD_ID, ROOT_ID, zone=zone)
    assert DirectoryRecord.parse(record.pack() + bytes(32)) == record


@pytest.mark.parametrize(
    "record",
    [
        DirectoryRecord(CHILD_ID, ROOT_ID, zone="x" * 257),
        DirectoryRecord(CHILD_ID, ROOT_ID, zone="caf\xe9"),
        DirectoryRecord(NO_PARENT, ROOT_ID),
    ],
    ids=["long zone", "zone not ASCII", "no id"],
)
def test_what_would_not_parse_is_not_written(record: DirectoryRecord) -> None:
    with pytest.raises(FormatError):
        record.pack()


@pytest.mark.parametrize(
    ("record", "parent", "stands"),
    [
        (DirectoryRecord(CHILD_ID, ROOT_ID), ROOT_ID, True),
        (DirectoryRecord(CHILD_ID, ROOT_ID), OTHER_ID, False),
        (DirectoryRecord(CHILD_ID, ROOT_ID), NO_PARENT, False),
        (DirectoryRecord(CHILD_ID, ROOT_ID, OTHER_ID), ROOT_ID, True),
        (DirectoryRecord(CHILD_ID, ROOT_ID, OTHER_ID), OTHER_ID, True),
        (DirectoryRecord(CHILD_ID, ROOT_ID, OTHER_ID), CHILD_ID, False),
        (DirectoryRecord(CHILD_ID, ROOT_ID, OTHER_ID), NO_PARENT, False),
        (DirectoryRecord(ROOT_ID, NO_PARENT), NO_PARENT, True),
    ],
)
def test_a_directory_stands_in_its_parents_only(record: DirectoryRecord, parent: DirId, stands: bool) -> None:
    assert record.stands_in(parent) is stands

"""Records and the chain that binds them."""

import hmac
import json
from hashlib import sha256

import pytest
from testkit.audits import ACTOR, FIRST_KEY, REGION, segment

from kmsfs.errors import IntegrityError
from kmsfs.ids import KeyArn
from kmsfs.keystore.audit import DONE, Chain, Checkpoint, Event, parse_record, record_body, timestamp
from kmsfs.keystore.audit_files import follow

ARN = KeyArn("arn:aws:kms:eu-west-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab")


def parsed(event: Event) -> object:
    chain = Chain(FIRST_KEY)
    record = parse_record(chain.line(record_body(event, REGION, 1_700_000_000.25)))
    assert len(record.pop("mac")) == 64
    return record


def test_a_record_says_who_did_what_with_which_key() -> None:
    event = Event(ACTOR, "Decrypt", ARN, {"purpose": "test"}, DONE)
    assert parsed(event) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "principal": "arn:aws:iam::000000000000:root",
        "uid": 1000,
        "via": "cli",
        "action": "Decrypt",
        "key": ARN,
        "region": "eu-west-1",
        "result": "ok",
        "count": 1,
        "context": {"purpose": "test"},
    }


def test_a_record_of_many_uses_says_since_when() -> None:
    actor = ACTOR._replace(request_id="r-1")
    event = Event(actor, "kmsfs:OpenFile", None, {}, "KeyDisabledError", 17, {"a": "b"}, 1_700_000_000.0)
    record = parsed(event)
    assert isinstance(record, dict)
    assert (record["count"], record["since"]) == (17, "2023-11-14T22:13:20.000000Z")
    assert (record["key"], record["request_id"], record["details"]) == (None, "r-1", {"a": "b"})


@pytest.mark.parametrize(
    "text", ['"', "\\", "\n", "\r\n", "\0", "ä", "\u2028", "\U0001f511", "\ud800", '","mac":"']
)
def test_a_record_is_one_line_whatever_the_context_holds(text: str) -> None:
    line = Chain(FIRST_KEY).line(record_body(Event(ACTOR, "Encrypt", ARN, {text: text}, DONE), REGION, 0.0))
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)["context"] == {text: text}


def test_times_keep_their_order_as_text() -> None:
    times = [0.0, 0.000_001, 0.999_999, 1.0, 86_399.5, 1_700_000_000.0, 1_700_000_000.000_01]
    assert [timestamp(time) for time in times] == sorted(timestamp(time) for time in times)


@pytest.mark.parametrize("count", [3, 70])
def test_the_chain_is_what_the_page_says(count: int) -> None:
    lines, end = segment(count)
    key, mac = FIRST_KEY, bytes(32)
    for line in lines:
        body, _, tail = line.rpartition(b',"mac":"')
        mac = hmac.digest(key, mac + body, "sha256")
        assert tail == mac.hex().encode() + b'"}\n'
        key = sha256(b"kmsfs audit next" + key).digest()
    assert end == Checkpoint(count, sum(map(len, lines)), mac)


def test_a_record_that_was_not_written_leaves_the_chain_where_it_is() -> None:
    lines, _ = segment(40)
    chain = Chain(FIRST_KEY)
    for line in lines:
        chain.line(b'{"never":"written"')
        assert chain.line(line.rpartition(b',"mac":"')[0]) == line
        chain.advance(line)


@pytest.mark.parametrize("known", range(4))
def test_the_chain_goes_on_behind_a_checkpoint(known: int) -> None:
    lines, end = segment(3)
    _, checkpoint = segment(known)
    chain = Chain(FIRST_KEY, checkpoint)
    assert follow(chain, b"".join(lines[known:])) == b""
    assert chain.checkpoint == end


def test_a_last_record_without_its_end_is_returned() -> None:
    lines, _ = segment(2)
    for cut in range(1, len(lines[1])):
        chain = Chain(FIRST_KEY)
        assert follow(chain, lines[0] + lines[1][:cut]) == lines[1][:cut]
        assert chain.records == 1


def test_a_changed_line_break_is_no_unfinished_record() -> None:
    lines, _ = segment(2)
    with pytest.raises(IntegrityError, match="record 2 does not end"):
        follow(Chain(FIRST_KEY), lines[0] + lines[1][:-1] + b"\x0b")


def test_another_segments_key_opens_nothing() -> None:
    lines, _ = segment(1)
    with pytest.raises(IntegrityError, match="record 1 is not authentic"):
        follow(Chain(bytes(32)), lines[0])


@pytest.mark.parametrize("line", [b"", b"\n", b"{", b"[]\n", b"1\n", b"\xff\n"])
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(IntegrityError, match="no record"):
        parse_record(line)
    with pytest.raises(IntegrityError):
        Chain(FIRST_KEY).check(line)

"""Ciphertext blobs that were damaged, or that say they are another key's."""

from collections.abc import Callable
from typing import Any

import pytest
from testkit.serving import Serving, refused

from kmsfs.format.blob import parse_blob

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"project": "files"}
INVALID = ("InvalidCiphertextException", "")
NOT_HERE = (
    "AccessDeniedException",
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
    "or you are not allowed to access.",
)


@pytest.fixture
def blob(us: Any, key: Any) -> bytes:
    made: bytes = us.encrypt(KeyId=key["KeyId"], Plaintext=b"secret", EncryptionContext=CONTEXT)[
        "CiphertextBlob"
    ]
    return made


def opened(client: Any, blob: bytes) -> Callable[[], object]:
    return lambda: client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)


def test_every_damaged_byte(us: Any, blob: bytes) -> None:
    head = parse_blob(blob).head
    arn = blob.index(head.key_arn.encode())
    material = blob.index(head.material_id)
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1 << place % 8
        found = refused(opened(us, bytes(changed)))
        if arn <= place < material:
            assert found in (INVALID, NOT_HERE), place
        else:
            unknown = material <= place < material + len(head.material_id)
            assert found == (NOT_HERE if unknown else INVALID), place


def test_every_length(us: Any, blob: bytes) -> None:
    for size in range(1, len(blob)):
        assert refused(opened(us, blob[:size])) == INVALID
    assert refused(opened(us, blob + b"\0")) == INVALID


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"project": "file"},
        {"Project": "files"},
        {"projectf": "iles"},
        {"project": "files", "more": ""},
        {"project": "files "},
    ],
)
def test_another_context(us: Any, key: Any, blob: bytes, context: dict[str, str]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: us.decrypt(CiphertextBlob=blob, EncryptionContext=context),
        lambda: us.re_encrypt(
            CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=key["KeyId"]
        ),
    ]
    for call in calls:
        assert refused(call) == INVALID


def test_what_another_token_made(us: Any, eu: Any, key: Any, blob: bytes) -> None:
    """Each region has a token of its own: a label does not move a blob from one into the other."""
    other = eu.create_key()["KeyMetadata"]
    foreign = eu.encrypt(KeyId=other["KeyId"], Plaintext=b"secret", EncryptionContext=CONTEXT)[
        "CiphertextBlob"
    ]
    assert refused(opened(us, foreign)) == NOT_HERE
    ours, theirs = parse_blob(blob).head, parse_blob(foreign).head
    named = foreign.replace(theirs.key_arn.encode(), ours.key_arn.encode())
    assert refused(opened(us, named)) == NOT_HERE  # the material is the other's still
    assert refused(opened(us, named.replace(theirs.material_id, ours.material_id))) == INVALID
    assert refused(opened(us, foreign.replace(EU.encode(), US.encode()))) == NOT_HERE
    assert refused(opened(eu, blob.replace(US.encode(), EU.encode()))) == NOT_HERE


def test_what_another_key_of_the_token_made(us: Any, key: Any, blob: bytes) -> None:
    other = us.create_key()["KeyMetadata"]
    foreign = us.encrypt(KeyId=other["KeyId"], Plaintext=b"secret", EncryptionContext=CONTEXT)[
        "CiphertextBlob"
    ]
    ours, theirs = parse_blob(blob).head, parse_blob(foreign).head
    renamed = foreign.replace(theirs.key_arn.encode(), ours.key_arn.encode())
    assert refused(opened(us, renamed)) == INVALID
    assert refused(opened(us, renamed.replace(theirs.material_id, ours.material_id))) == INVALID


def test_no_blob_at_all(served: Serving) -> None:
    raw = served.client(US, validation=False)
    code, message = refused(opened(raw, b""))
    assert code == "ValidationException"
    assert "Member must have length greater than or equal to 1" in message

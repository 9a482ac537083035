"""Material that was wrapped for the keystore opens there, and only whole."""

import pytest
from testkit.wrapping import wrap

from kmsfs.crypto.transport import ALGORITHMS, new_transport_key, unwrap
from kmsfs.errors import IntegrityError


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    return new_transport_key(2048)


@pytest.mark.parametrize("size", [28, 32, 48, 64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_opens(pair: tuple[bytes, bytes], algorithm: str, size: int) -> None:
    private, public = pair
    material = bytes(range(size))
    assert unwrap(private, algorithm, wrap(public, algorithm, material)) == material


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_changed_or_wrapped_otherwise_does_not_open(
    pair: tuple[bytes, bytes], algorithm: str
) -> None:
    private, public = pair
    wrapped = wrap(public, algorithm, bytes(32))
    others = [wrap(public, other, bytes(32)) for other in ALGORITHMS if other != algorithm]
    for bad in (
        b"x",
        wrapped[:-1],
        wrapped + b"\0",
        bytes([wrapped[0] ^ 1]) + wrapped[1:],
        wrapped[:-1] + bytes([wrapped[-1] ^ 1]),
        wrap(new_transport_key(2048)[1], algorithm, bytes(32)),
        *others,
    ):
        with pytest.raises(IntegrityError):
            unwrap(private, algorithm, bad)

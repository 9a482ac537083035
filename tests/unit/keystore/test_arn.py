"""Names of regions, keys and aliases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsfs.errors import InvalidRequestError
from kmsfs.format.blob import MAX_ARN_SIZE
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.arn import KeyReference, alias_arn, check_region, key_arn, parse_reference

KEY_ID = KeyId("01234567-89ab-cdef-0123-456789abcdef")


@pytest.mark.parametrize("name", ["us-east-1", "a", "eu", "us-gov-west-1", "x" * 32, "r2d2"])
def test_region_names(name: str) -> None:
    assert check_region(name) == name
    assert len(key_arn(Region(name), "0" * 12, KEY_ID)) <= MAX_ARN_SIZE


@pytest.mark.parametrize(
    "name",
    [
        "",
        "US-EAST-1",
        "us--east",
        "-us",
        "us-",
        "1us",
        "us_east",
        "us/..",
        "..",
        "us east",
        "x" * 33,
        "ü",
        "us\n",
        None,
        5,
    ],
)
def test_names_that_no_region_has(name: object) -> None:
    with pytest.raises(InvalidRequestError):
        check_region(name)  # type: ignore[arg-type]


def test_what_a_person_names_is_taken_apart() -> None:
    region = Region("us-east-1")
    assert parse_reference(key_arn(region, "1" * 12, KEY_ID)) == KeyReference(region, "1" * 12, None, KEY_ID)
    assert parse_reference(alias_arn(region, "1" * 12, "alias/a/b")) == KeyReference(
        region, "1" * 12, "alias/a/b", None
    )
    assert parse_reference("alias/a") == KeyReference(None, None, "alias/a", None)
    assert parse_reference(KEY_ID) == KeyReference(None, None, None, KEY_ID)


@given(st.text(max_size=80) | st.text("arn:awskmey/lis0-", max_size=80))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    try:
        named = parse_reference(text)
    except InvalidRequestError:
        return
    assert (named.alias is None) != (named.key_id is None)

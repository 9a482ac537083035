from testkit.policy_cases import ACCOUNT, ALICE, KEY_ARN, ROOT

from kmsfs.keystore.policy.context import (
    KNOWN_KEYS,
    KeyFacts,
    encryption_context,
    is_known_key,
    merge,
    parameter,
    principal_context,
    request_tags,
    tag_keys,
)
from kmsfs.keystore.policy.principals import Principal


def test_every_key_that_a_request_carries_may_stand_in_a_policy() -> None:
    facts = KeyFacts(KEY_ARN, ACCOUNT, multi_region_key_type="PRIMARY", aliases=("alias/a",), tags={"t": "1"})
    context = merge(
        principal_context(Principal(ALICE, tags={"team": "a"})),
        facts.context(),
        encryption_context({"a": "1"}),
        request_tags({"k": "v"}),
    )
    assert all(is_known_key(key) for key in context)
    assert context["kms:multiregionkeytype"] == ("PRIMARY",)
    assert context["aws:principaltag/team"] == ("a",)
    assert context["aws:requesttag/k"] == ("v",)
    assert context["aws:tagkeys"] == ("k",)


def test_root_has_no_user_name() -> None:
    assert "aws:username" not in principal_context(Principal(ROOT))
    assert principal_context(Principal(ALICE))["aws:username"] == ("alice",)


def test_user_name_is_the_last_part_of_its_path() -> None:
    assert Principal(f"arn:aws:iam::{ACCOUNT}:user/division/alice").name == "alice"


def test_what_is_empty_has_no_key() -> None:
    assert encryption_context({}) == {}
    assert tag_keys([]) == {}


def test_parameters_are_text() -> None:
    assert parameter("kms:MultiRegion", True) == {"kms:multiregion": ("true",)}
    assert parameter("kms:RotationPeriodInDays", 90) == {"kms:rotationperiodindays": ("90",)}


def test_known_keys_are_in_lower_case() -> None:
    assert all(key == key.lower() for key in KNOWN_KEYS)

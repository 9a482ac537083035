"""AWS's limits: what is at the edge is taken, what is one past it is refused in AWS's words."""

from collections.abc import Callable
from typing import Any

import pytest
from testkit.serving import Serving, refused

US = "us-east-1"
Call = Callable[[Any, str], object]


@pytest.fixture
def raw(served: Serving) -> Any:
    """A client that sends what AWS refuses."""
    return served.client(US, validation=False)


def alias(key_id: str, length: int) -> str:
    return f"alias/{key_id}".ljust(length, "n")


def tag(name: int, value: int) -> list[dict[str, str]]:
    return [{"TagKey": "k" * name, "TagValue": "v" * value}]


def encrypt(size: int) -> Call:
    return lambda us, key: us.encrypt(KeyId=key, Plaintext=bytes(size))


def rotation(days: int) -> Call:
    return lambda us, key: us.enable_key_rotation(KeyId=key, RotationPeriodInDays=days)


def deletion(days: int) -> Call:
    return lambda us, key: us.schedule_key_deletion(KeyId=key, PendingWindowInDays=days)


def random(size: int) -> Call:
    return lambda us, key: us.generate_random(NumberOfBytes=size)


def data_key(size: int) -> Call:
    return lambda us, key: us.generate_data_key(KeyId=key, NumberOfBytes=size)


LISTS: dict[str, Callable[..., Call]] = {
    "ListKeys": lambda **limit: lambda us, key: us.list_keys(**limit),
    "ListAliases": lambda **limit: lambda us, key: us.list_aliases(**limit),
    "ListResourceTags": lambda **limit: lambda us, key: us.list_resource_tags(KeyId=key, **limit),
    "ListKeyRotations": lambda **limit: lambda us, key: us.list_key_rotations(KeyId=key, **limit),
}

#: name, a call at the edge, a call past it, the member that is told, what is told of it
EDGES: list[tuple[str, Call, Call, str, str]] = [
    ("plaintext", encrypt(4096), encrypt(4097), "plaintext", "have length less than or equal to 4096"),
    ("no plaintext", encrypt(1), encrypt(0), "plaintext", "have length greater than or equal to 1"),
    (
        "description",
        lambda us, key: us.create_key(Description="d" * 8192),
        lambda us, key: us.create_key(Description="d" * 8193),
        "description",
        "have length less than or equal to 8192",
    ),
    (
        "new description",
        lambda us, key: us.update_key_description(KeyId=key, Description="d" * 8192),
        lambda us, key: us.update_key_description(KeyId=key, Description="d" * 8193),
        "description",
        "have length less than or equal to 8192",
    ),
    (
        "alias",
        lambda us, key: us.create_alias(AliasName=alias(key, 256), TargetKeyId=key),
        lambda us, key: us.create_alias(AliasName=alias(key, 257), TargetKeyId=key),
        "aliasName",
        "have length less than or equal to 256",
    ),
    (
        "tag key",
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(128, 0)),
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(129, 0)),
        "tags.1.member.tagKey",
        "have length less than or equal to 128",
    ),
    (
        "tag value",
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(1, 256)),
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(1, 257)),
        "tags.1.member.tagValue",
        "have length less than or equal to 256",
    ),
    (
        "no tag key",
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(1, 0)),
        lambda us, key: us.tag_resource(KeyId=key, Tags=tag(0, 0)),
        "tags.1.member.tagKey",
        "have length greater than or equal to 1",
    ),
    (
        "least period",
        rotation(90),
        rotation(89),
        "rotationPeriodInDays",
        "have value greater than or equal to 90",
    ),
    (
        "period",
        rotation(2560),
        rotation(2561),
        "rotationPeriodInDays",
        "have value less than or equal to 2560",
    ),
    (
        "least window",
        deletion(7),
        deletion(6),
        "pendingWindowInDays",
        "have value greater than or equal to 7",
    ),
    ("window", deletion(30), deletion(31), "pendingWindowInDays", "have value less than or equal to 30"),
    ("no random bytes", random(1), random(0), "numberOfBytes", "have value greater than or equal to 1"),
    ("random bytes", random(1024), random(1025), "numberOfBytes", "have value less than or equal to 1024"),
    ("data key", data_key(1024), data_key(1025), "numberOfBytes", "have value less than or equal to 1024"),
    *(
        (f"least {name}", of(Limit=1), of(Limit=0), "limit", "have value greater than or equal to 1")
        for name, of in LISTS.items()
    ),
    *(
        (name, of(Limit=1000), of(Limit=1001), "limit", "have value less than or equal to 1000")
        for name, of in LISTS.items()
    ),
]


@pytest.mark.parametrize(
    ("good", "bad", "member", "told"), [edge[1:] for edge in EDGES], ids=[e[0] for e in EDGES]
)
def test_the_edge_is_taken_and_what_is_past_it_refused(
    raw: Any, key: Any, good: Call, bad: Call, member: str, told: str
) -> None:
    code, message = refused(lambda: bad(raw, key["KeyId"]))
    assert code == "ValidationException"
    assert message.startswith("1 validation error detected: Value")
    assert message.endswith(f" at '{member}' failed to satisfy constraint: Member must {told}")
    good(raw, key["KeyId"])

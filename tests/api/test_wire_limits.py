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


def tokens(count: int, length: int) -> Call:
    return lambda us, key: us.describe_key(KeyId=key, GrantTokens=["t" * length] * count)


def policy(length: int) -> Call:
    def put(us: Any, key: str) -> object:
        document = us.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
        return us.put_key_policy(KeyId=key, PolicyName="default", Policy=document.ljust(length))

    return put


def grant(name: int) -> Call:
    def create(us: Any, key: str) -> object:
        account = us.describe_key(KeyId=key)["KeyMetadata"]["AWSAccountId"]
        root = f"arn:aws:iam::{account}:root"
        return us.create_grant(KeyId=key, GranteePrincipal=root, Operations=["Decrypt"], Name="n" * name)

    return create


def material_id(length: int) -> Call:
    return lambda us, key: us.delete_imported_key_material(KeyId=key, KeyMaterialId="0" * length)


def retirable(**limit: int) -> Call:
    root = "arn:aws:iam::000000000000:root"
    return lambda us, key: us.list_retirable_grants(RetiringPrincipal=root, **limit)


LISTS: dict[str, Callable[..., Call]] = {
    "ListKeys": lambda **limit: lambda us, key: us.list_keys(**limit),
    "ListAliases": lambda **limit: lambda us, key: us.list_aliases(**limit),
    "ListResourceTags": lambda **limit: lambda us, key: us.list_resource_tags(KeyId=key, **limit),
    "ListKeyRotations": lambda **limit: lambda us, key: us.list_key_rotations(KeyId=key, **limit),
    "ListKeyPolicies": lambda **limit: lambda us, key: us.list_key_policies(KeyId=key, **limit),
    "ListGrants": lambda **limit: lambda us, key: us.list_grants(KeyId=key, **limit),
    "ListRetirableGrants": retirable,
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
    ("grant name", grant(256), grant(257), "name", "have length less than or equal to 256"),
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


NO_TOKEN = "InvalidGrantTokenException"

#: As above, where what is at the edge is read, and refused for what it says.
READ: list[tuple[str, Call, str, Call, str, str]] = [
    (
        "ciphertext",
        lambda us, key: us.decrypt(CiphertextBlob=bytes(6144)),
        "InvalidCiphertextException",
        lambda us, key: us.decrypt(CiphertextBlob=bytes(6145)),
        "ciphertextBlob",
        "have length less than or equal to 6144",
    ),
    (
        "no ciphertext",
        lambda us, key: us.decrypt(CiphertextBlob=bytes(1)),
        "InvalidCiphertextException",
        lambda us, key: us.decrypt(CiphertextBlob=b""),
        "ciphertextBlob",
        "have length greater than or equal to 1",
    ),
    (
        "key id",
        lambda us, key: us.describe_key(KeyId="k" * 2048),
        "NotFoundException",
        lambda us, key: us.describe_key(KeyId="k" * 2049),
        "keyId",
        "have length less than or equal to 2048",
    ),
    (
        "marker",
        lambda us, key: us.list_keys(Marker="m" * 1024),
        "InvalidMarkerException",
        lambda us, key: us.list_keys(Marker="m" * 1025),
        "marker",
        "have length less than or equal to 1024",
    ),
    ("grant tokens", tokens(10, 1), NO_TOKEN, tokens(11, 1), "grantTokens", "less than or equal to 10"),
    ("grant token", tokens(1, 8192), NO_TOKEN, tokens(1, 8193), "grantTokens", "than or equal to 8192"),
    (
        "material id",
        material_id(64),
        "UnsupportedOperationException",
        material_id(65),
        "keyMaterialId",
        "have length less than or equal to 64",
    ),
    (
        "short material id",
        material_id(64),
        "UnsupportedOperationException",
        material_id(63),
        "keyMaterialId",
        "have length greater than or equal to 64",
    ),
    (
        "policy of the model",
        policy(131072),
        "LimitExceededException",
        policy(131073),
        "policy",
        "have length less than or equal to 131072",
    ),
]


@pytest.mark.parametrize(
    ("good", "code", "bad", "member", "told"), [row[1:] for row in READ], ids=[row[0] for row in READ]
)
def test_the_edge_is_read_and_what_is_past_it_refused(
    raw: Any, key: Any, good: Call, code: str, bad: Call, member: str, told: str
) -> None:
    assert refused(lambda: good(raw, key["KeyId"]))[0] == code
    refusal = refused(lambda: bad(raw, key["KeyId"]))
    assert refusal[0] == "ValidationException"
    assert f" at '{member}' failed to satisfy constraint: Member must " in refusal[1]
    assert told in refusal[1]


def test_quotas(us: Any, key: Any) -> None:
    """Fifty aliases of a key, and 32 KiB of policy; tags and rotations are tested with their actions."""
    policy(32768)(us, key["KeyId"])
    assert refused(lambda: policy(32769)(us, key["KeyId"]))[0] == "LimitExceededException"
    for number in range(50):
        us.create_alias(AliasName=f"alias/{key['KeyId']}/{number}", TargetKeyId=key["KeyId"])
    more = refused(lambda: us.create_alias(AliasName=f"alias/{key['KeyId']}/50", TargetKeyId=key["KeyId"]))
    assert more[0] == "LimitExceededException"

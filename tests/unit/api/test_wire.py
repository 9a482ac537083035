"""What a body is read as, and what AWS says of the others."""

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import given
from hypothesis import strategies as st

from kmsfs.api.actions import ACTIONS, UNSUPPORTED
from kmsfs.api.refusal import Refusal
from kmsfs.api.shapes import Blob, Boolean, Integer, ListOf, MapOf, Shape, Structure, Text, Timestamp
from kmsfs.api.wire import CONTENT_TYPE, Call, parse_request, render_answer, render_refusal

KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
SERVICE = ServiceModel(Loader().load_service_model("kms", "service-2", "2014-11-01"), "kms")


def b64(length: int) -> str:
    return base64.b64encode(b"x" * length).decode()


def parse(action: str, body: object) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(f"TrentService.{action}", CONTENT_TYPE, raw)


def refused(action: str, body: object) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        parse(action, body)
    assert refusal.value.status == 400
    return refusal.value


def one(rest: str) -> str:
    return f"1 validation error detected: {rest}"


def failed(value: str, path: str, constraint: str) -> str:
    return one(f"Value{value} at '{path}' failed to satisfy constraint: {constraint}")


LESS = "Member must have length less than or equal to {}".format
MORE = "Member must have length greater than or equal to {}".format
AT_MOST = "Member must have value less than or equal to {}".format
AT_LEAST = "Member must have value greater than or equal to {}".format
NOT_NULL = "Member must not be null"
ALIAS_PATTERN = "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"

VIOLATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("Encrypt", {"KeyId": KEY, "Plaintext": b64(4097)}, failed("", "plaintext", LESS(4096))),
    ("Encrypt", {"KeyId": KEY, "Plaintext": ""}, failed("", "plaintext", MORE(1))),
    ("Encrypt", {"Plaintext": b64(1)}, failed(" null", "keyId", NOT_NULL)),
    ("Encrypt", {"KeyId": None, "Plaintext": b64(1)}, failed(" null", "keyId", NOT_NULL)),
    (
        "Encrypt",
        {"KeyId": "k" * 2049, "Plaintext": b64(1)},
        failed(f" '{'k' * 2049}'", "keyId", LESS(2048)),
    ),
    ("Decrypt", {"CiphertextBlob": b64(6145)}, failed("", "ciphertextBlob", LESS(6144))),
    ("Decrypt", {}, failed(" null", "ciphertextBlob", NOT_NULL)),
    ("GenerateRandom", {"NumberOfBytes": 1025}, failed(" '1025'", "numberOfBytes", AT_MOST(1024))),
    ("GenerateRandom", {"NumberOfBytes": 0}, failed(" '0'", "numberOfBytes", AT_LEAST(1))),
    ("CreateKey", {"Description": "d" * 8193}, failed(f" '{'d' * 8193}'", "description", LESS(8192))),
    ("CreateKey", {"Tags": [{"TagKey": "", "TagValue": ""}]}, failed(" ''", "tags.1.member.tagKey", MORE(1))),
    ("CreateKey", {"Tags": [{"TagKey": "k"}]}, failed(" null", "tags.1.member.tagValue", NOT_NULL)),
    (
        "CreateKey",
        {"Tags": [{"TagKey": "k" * 129, "TagValue": ""}]},
        failed(f" '{'k' * 129}'", "tags.1.member.tagKey", LESS(128)),
    ),
    (
        "TagResource",
        {"KeyId": KEY, "Tags": [{"TagKey": "k", "TagValue": "v" * 257}]},
        failed(f" '{'v' * 257}'", "tags.1.member.tagValue", LESS(256)),
    ),
    (
        "CreateAlias",
        {"AliasName": "alias/a b", "TargetKeyId": KEY},
        failed(" 'alias/a b'", "aliasName", ALIAS_PATTERN),
    ),
    (
        "CreateAlias",
        {"AliasName": "a" * 257, "TargetKeyId": KEY},
        failed(f" '{'a' * 257}'", "aliasName", LESS(256)),
    ),
    (
        "CreateAlias",
        {"AliasName": "alias/a\n", "TargetKeyId": KEY},
        failed(" 'alias/a\n'", "aliasName", ALIAS_PATTERN),
    ),
    (
        "GenerateDataKey",
        {"KeyId": KEY, "KeySpec": "AES_512"},
        failed(" 'AES_512'", "keySpec", "Member must satisfy enum value set: [AES_256, AES_128]"),
    ),
    ("ListKeys", {"Limit": 1001}, failed(" '1001'", "limit", AT_MOST(1000))),
    ("ListKeys", {"Limit": 0}, failed(" '0'", "limit", AT_LEAST(1))),
    (
        "EnableKeyRotation",
        {"KeyId": KEY, "RotationPeriodInDays": 89},
        failed(" '89'", "rotationPeriodInDays", AT_LEAST(90)),
    ),
    (
        "EnableKeyRotation",
        {"KeyId": KEY, "RotationPeriodInDays": 2561},
        failed(" '2561'", "rotationPeriodInDays", AT_MOST(2560)),
    ),
    (
        "ScheduleKeyDeletion",
        {"KeyId": KEY, "PendingWindowInDays": 6},
        failed(" '6'", "pendingWindowInDays", AT_LEAST(7)),
    ),
    (
        "ScheduleKeyDeletion",
        {"KeyId": KEY, "PendingWindowInDays": 31},
        failed(" '31'", "pendingWindowInDays", AT_MOST(30)),
    ),
    (
        "ScheduleKeyDeletion",
        {"KeyId": KEY, "PendingWindowInDays": 366},
        failed(" '366'", "pendingWindowInDays", AT_MOST(365)),
    ),
    (
        "DescribeKey",
        {"KeyId": KEY, "GrantTokens": ["t"] * 11},
        failed(f" '[{', '.join(['t'] * 11)}]'", "grantTokens", LESS(10)),
    ),
    (
        "DescribeKey",
        {"KeyId": KEY, "GrantTokens": [""]},
        failed(" '[]'", "grantTokens", f"Member must satisfy constraint: [{LESS(8192)}, {MORE(1)}]"),
    ),
    ("ListRetirableGrants", {}, failed(" null", "retiringPrincipal", NOT_NULL)),
    ("CreateGrant", {"KeyId": KEY, "Operations": []}, failed(" null", "granteePrincipal", NOT_NULL)),
    (
        "DeleteImportedKeyMaterial",
        {"KeyId": KEY, "KeyMaterialId": "0" * 63},
        failed(f" '{'0' * 63}'", "keyMaterialId", MORE(64)),
    ),
    (
        "ReplicateKey",
        {"KeyId": KEY, "ReplicaRegion": "nowhere"},
        failed(
            " 'nowhere'",
            "replicaRegion",
            "Member must satisfy regular expression pattern: ^([a-z]+-){2,3}\\d+$",
        ),
    ),
]


@pytest.mark.parametrize(("action", "body", "message"), VIOLATIONS)
def test_violated_constraint(action: str, body: dict[str, Any], message: str) -> None:
    refusal = refused(action, body)
    assert (refusal.code, refusal.message) == ("ValidationException", message)


def test_violations_are_told_together() -> None:
    message = refused("CreateAlias", {"AliasName": "", "TargetKeyId": ""}).message
    assert message == (
        f"3 validation errors detected: Value '' at 'aliasName' failed to satisfy constraint: {ALIAS_PATTERN}; "
        f"Value '' at 'aliasName' failed to satisfy constraint: {MORE(1)}; "
        f"Value '' at 'targetKeyId' failed to satisfy constraint: {MORE(1)}"
    )


def test_enum_in_a_list_is_told_with_the_list() -> None:
    body = {
        "KeyId": KEY,
        "GranteePrincipal": "arn:aws:iam::111122223333:root",
        "Operations": ["Decrypt", "Destroy"],
    }
    message = refused("CreateGrant", body).message
    assert message.startswith(
        one(
            "Value '[Decrypt, Destroy]' at 'operations' failed to satisfy constraint: Member must satisfy constraint: "
            "[Member must satisfy enum value set: [Decrypt, Encrypt, "
        )
    )


AT_THE_EDGE: list[tuple[str, dict[str, Any]]] = [
    ("Encrypt", {"KeyId": "k" * 2048, "Plaintext": b64(4096)}),
    ("Decrypt", {"CiphertextBlob": b64(6144)}),
    ("GenerateRandom", {"NumberOfBytes": 1024}),
    ("GenerateRandom", {}),
    ("CreateKey", {"Description": "ä" * 8192, "Tags": [{"TagKey": "k" * 128, "TagValue": "v" * 256}]}),
    ("CreateAlias", {"AliasName": "a" * 256, "TargetKeyId": KEY}),
    ("ListKeys", {"Limit": 1000}),
    ("EnableKeyRotation", {"KeyId": KEY, "RotationPeriodInDays": 2560}),
    ("ScheduleKeyDeletion", {"KeyId": KEY, "PendingWindowInDays": 7}),
    ("ScheduleKeyDeletion", {"KeyId": KEY}),
    ("GenerateDataKey", {"KeyId": KEY, "NumberOfBytes": 1024}),
    ("GenerateDataKeyWithoutPlaintext", {"KeyId": KEY, "KeySpec": "AES_128"}),
    ("CreateGrant", {"KeyId": KEY, "GranteePrincipal": "arn:aws:iam::111122223333:root", "Operations": []}),
    ("RetireGrant", {"GrantToken": "t"}),
    ("RetireGrant", {"GrantId": "g", "KeyId": KEY}),
    ("ListRetirableGrants", {"RetiringPrincipal": "arn:aws:iam::111122223333:root"}),
    ("CreateKey", {"KeySpec": "SYMMETRIC_DEFAULT"}),
    ("DescribeKey", {"KeyId": KEY, "GrantTokens": ["t"] * 10}),
]


@pytest.mark.parametrize(("action", "body"), AT_THE_EDGE)
def test_limit_at_its_edge(action: str, body: dict[str, Any]) -> None:
    assert set(parse(action, body).parameters) == set(body)


WRONG_TYPES: list[tuple[str, object, str]] = [
    ("Encrypt", {"KeyId": 1, "Plaintext": b64(1)}, "NUMBER_VALUE can not be converted to a String"),
    ("Encrypt", {"KeyId": True, "Plaintext": b64(1)}, "TRUE_VALUE can not be converted to a String"),
    ("Encrypt", {"KeyId": [KEY], "Plaintext": b64(1)}, "Start of list found where not expected"),
    ("Encrypt", {"KeyId": {}, "Plaintext": b64(1)}, "Start of structure or map found where not expected."),
    ("Encrypt", {"KeyId": KEY, "Plaintext": 1}, "NUMBER_VALUE can not be converted to a Blob"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "eA"}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "eA==\n"}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "e A=="}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "eA==eA=="}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "_-8="}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": "ä==="}, "not base64"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": b64(1), "EncryptionContext": []}, "Expected map or null"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": b64(1), "EncryptionContext": {"a": 1}}, "NUMBER_VALUE"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": b64(1), "EncryptionContext": {"a": None}}, "Start of structure"),
    ("Encrypt", {"KeyId": KEY, "Plaintext": b64(1), "EncryptionContext": {"\ud800": "x"}}, "surrogate"),
    (
        "Encrypt",
        {"KeyId": KEY, "Plaintext": b64(1), "DryRun": "true"},
        "STRING_VALUE can not be converted to a Boolean",
    ),
    (
        "Encrypt",
        {"KeyId": KEY, "Plaintext": b64(1), "DryRun": 1},
        "NUMBER_VALUE can not be converted to a Boolean",
    ),
    ("ListKeys", {"Limit": "10"}, "STRING_VALUE can not be converted to an Integer"),
    ("ListKeys", {"Limit": 1.5}, "NUMBER_VALUE can not be converted to an Integer"),
    ("ListKeys", {"Limit": True}, "TRUE_VALUE can not be converted to an Integer"),
    ("ListKeys", {"Limit": 2**31}, "NUMBER_VALUE can not be converted to an Integer"),
    ("ListKeys", {"Marker": "\ud800"}, "surrogate"),
    ("DescribeKey", {"KeyId": KEY, "GrantTokens": "t"}, "Expected list or null"),
    ("DescribeKey", {"KeyId": KEY, "GrantTokens": [1]}, "NUMBER_VALUE can not be converted to a String"),
    ("DescribeKey", {"KeyId": KEY, "GrantTokens": [None]}, "Start of structure"),
    ("CreateKey", {"Tags": ["k"]}, "STRING_VALUE can not be converted to a Structure"),
    (
        "ImportKeyMaterial",
        {"ImportToken": b64(1), "ValidTo": "now"},
        "STRING_VALUE can not be converted to a Timestamp",
    ),
    ("ImportKeyMaterial", {"ImportToken": b64(1), "ValidTo": 1e300}, "Timestamp is out of range"),
    ("ListKeys", [], "Start of list found where not expected"),
    ("ListKeys", "x", "STRING_VALUE can not be converted to a Structure"),
    ("ListKeys", None, "Start of structure"),
    ("ListKeys", b"", "not JSON"),
    ("ListKeys", b"{", "not JSON"),
    ("ListKeys", b"{} {}", "not JSON"),
    ("ListKeys", b"\xff\xfe", "not JSON"),
    ("ListKeys", b'{"Limit": NaN}', "not JSON"),
    ("ListKeys", b'{"Limit": 1, "Limit": 2}', "not JSON"),
    ("ListKeys", b'{"Limit": ' + b"9" * 5000 + b"}", "not JSON"),
    ("ListKeys", b"[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("action", "body", "words"), WRONG_TYPES)
def test_wrong_type(action: str, body: object, words: str) -> None:
    refusal = refused(action, body)
    assert refusal.code == "SerializationException"
    assert words in refusal.message


@pytest.mark.parametrize(
    "target", ["", "TrentService.", "TrentService.Nothing", "ListKeys", "trentservice.ListKeys", "X.ListKeys"]
)
def test_unknown_action(target: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_request(target, CONTENT_TYPE, b"{}")
    assert refusal.value.code == "UnknownOperationException"


@pytest.mark.parametrize("action", sorted(UNSUPPORTED))
def test_unsupported_action(action: str) -> None:
    assert refused(action, {}).code == "UnsupportedOperationException"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "application/x-amz-json-1.0"])
def test_another_content_type(content_type: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_request("TrentService.ListKeys", content_type, b"{}")
    assert refusal.value.code == "UnknownOperationException"


def test_content_type_with_a_parameter() -> None:
    call = parse_request("TrentService.ListKeys", "Application/X-Amz-Json-1.1; charset=utf-8", b"{}")
    assert call == parse_request("TrentService.ListKeys", "application/x-amz-json-1.1", b"{}")


GRANT = {"KeyId": KEY, "GranteePrincipal": "arn:aws:iam::111122223333:root", "Operations": ["Decrypt"]}
IMPORT = {"KeyId": KEY, "ImportToken": "eA==", "EncryptedKeyMaterial": "eA=="}
FOR_EVER = "KEY_MATERIAL_DOES_NOT_EXPIRE"
RULES: list[tuple[str, dict[str, Any], str, str]] = [
    ("ImportKeyMaterial", IMPORT, "ValidationException", "A validTo date must be set"),
    (
        "ImportKeyMaterial",
        IMPORT | {"ExpirationModel": "KEY_MATERIAL_EXPIRES"},
        "ValidationException",
        "A validTo date must be set",
    ),
    (
        "ImportKeyMaterial",
        IMPORT | {"ExpirationModel": FOR_EVER, "ValidTo": 1767225600},
        "ValidationException",
        "ValidTo",
    ),
    (
        "ImportKeyMaterial",
        IMPORT | {"ExpirationModel": FOR_EVER, "ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "0" * 64},
        "ValidationException",
        "KeyMaterialId",
    ),
    ("GenerateDataKey", {"KeyId": KEY}, "ValidationException", "either number of bytes or key spec"),
    (
        "GenerateDataKey",
        {"KeyId": KEY, "KeySpec": "AES_256", "NumberOfBytes": 32},
        "ValidationException",
        "either number",
    ),
    (
        "GenerateDataKeyWithoutPlaintext",
        {"KeyId": KEY},
        "ValidationException",
        "either number of bytes or key spec",
    ),
    ("GenerateRandom", {"CustomKeyStoreId": "cks-1"}, "UnsupportedOperationException", "CustomKeyStoreId"),
    ("GenerateRandom", {"Recipient": {}}, "UnsupportedOperationException", "Recipient"),
    ("CreateKey", {"XksKeyId": "x"}, "UnsupportedOperationException", "XksKeyId"),
    (
        "CreateKey",
        {"KeySpec": "HMAC_256", "CustomerMasterKeySpec": "HMAC_256"},
        "ValidationException",
        "KeySpec",
    ),
    (
        "Decrypt",
        {"CiphertextBlob": b64(1), "DryRunModifiers": []},
        "UnsupportedOperationException",
        "DryRunModifiers",
    ),
    (
        "CreateGrant",
        {**GRANT, "RetiringServicePrincipal": "s3.amazonaws.com"},
        "UnsupportedOperationException",
        "Retiring",
    ),
    (
        "CreateGrant",
        {**GRANT, "Constraints": {"SourceArn": "arn:aws:s3:::111122223333:x"}},
        "ValidationException",
        "sourceArn",
    ),
    (
        "CreateGrant",
        {**GRANT, "Constraints": {"SourceArn": "arn:aws:s3::111122223333:bucket"}},
        "UnsupportedOperationException",
        "SourceArn",
    ),
    ("RetireGrant", {}, "ValidationException", "grant token or a key ARN"),
    ("RetireGrant", {"GrantId": "g"}, "ValidationException", "grant token or a key ARN"),
    ("RetireGrant", {"GrantToken": "t", "GrantId": "g"}, "ValidationException", "grant token or a key ARN"),
    (
        "RetireGrant",
        {"GrantToken": "t", "GrantId": "g", "KeyId": KEY},
        "ValidationException",
        "grant token or a key ARN",
    ),
]


@pytest.mark.parametrize(("action", "body", "code", "words"), RULES)
def test_rule_beyond_the_model(action: str, body: dict[str, Any], code: str, words: str) -> None:
    refusal = refused(action, body)
    assert refusal.code == code
    assert words in refusal.message


def test_values_arrive_typed() -> None:
    body = {
        "KeyId": KEY,
        "ImportToken": b64(2),
        "EncryptedKeyMaterial": b64(3),
        "ValidTo": 1767225600.5,
        "SomethingNewer": [1],
        "ExpirationModel": None,
    }
    assert parse("ImportKeyMaterial", body).parameters == {
        "KeyId": KEY,
        "ImportToken": b"xx",
        "EncryptedKeyMaterial": b"xxx",
        "ValidTo": datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC),
    }


def valid(shape: Shape) -> st.SearchStrategy[object]:
    """Return values that botocore sends for a shape."""
    match shape:
        case Text(values=values) if values:
            return st.sampled_from(values)
        case Text(pattern=pattern) if pattern:
            limits = (shape.minimum or 0, shape.maximum or 64)
            return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(
                lambda text: (
                    text.isascii() and limits[0] <= len(text) <= limits[1] and not text.endswith("\n")
                )
            )
        case Text():
            return st.text(min_size=shape.minimum or 0, max_size=min(shape.maximum or 20, 20))
        case Blob():
            return st.binary(min_size=shape.minimum, max_size=min(shape.maximum, 50))
        case Integer():
            return st.integers(shape.minimum, shape.maximum)
        case Boolean():
            return st.booleans()
        case Timestamp():
            return st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
        case ListOf():
            return st.lists(
                valid(shape.member), min_size=shape.minimum or 0, max_size=min(shape.maximum or 3, 3)
            )
        case MapOf():
            return st.dictionaries(valid(shape.key), valid(shape.value), max_size=3)
        case Structure():
            required = {name: valid(shape.members[name]) for name in shape.required}
            optional = {name: valid(member) for name, member in shape.members.items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)
    raise AssertionError(shape)


REQUESTS = st.sampled_from(sorted(ACTIONS)).flatmap(
    lambda name: st.tuples(st.just(name), valid(ACTIONS[name]))
)


@given(REQUESTS)
def test_what_botocore_serialises_is_read_back(request: tuple[str, dict[str, Any]]) -> None:
    action, parameters = request
    serialised = create_serializer("json").serialize_to_request(parameters, SERVICE.operation_model(action))
    try:
        call = parse_request(
            serialised["headers"]["X-Amz-Target"], serialised["headers"]["Content-Type"], serialised["body"]
        )
    except Refusal as refusal:
        # Only a rule between members may speak: each of them is valid.
        by_rule = (
            "UnsupportedOperation",
            "Please specify",
            "cannot specify",
            "must not be null",
            "have value",
            "must be set",
            "must specify",
            "is not compatible with",
        )
        assert any(words in refusal.code + refusal.message for words in by_rule), refusal.message  # noqa: PT017
    else:
        assert call.parameters == parameters


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)


@given(st.data())
def test_any_json_is_read_or_refused(data: st.DataObject) -> None:
    action = data.draw(st.sampled_from(sorted(ACTIONS)))
    body = data.draw(st.dictionaries(st.sampled_from(sorted(ACTIONS[action].members) or [""]), JSON))
    try:
        parse(action, body)
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse("Encrypt", body)
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017


def parsed(action: str, body: bytes, status: int = 200) -> dict[str, Any]:
    response = {"body": body, "headers": {}, "status_code": status}
    return dict(create_parser("json").parse(response, SERVICE.operation_model(action).output_shape))


def test_answer_is_what_botocore_reads() -> None:
    made = datetime(2026, 3, 14, 15, 9, 26, 500_000, UTC)
    answer = parsed(
        "DescribeKey", render_answer({"KeyMetadata": {"KeyId": KEY, "CreationDate": made, "Enabled": True}})
    )
    assert answer["KeyMetadata"]["Enabled"] is True
    assert answer["KeyMetadata"]["CreationDate"].timestamp() == made.timestamp()
    answer = parsed("Encrypt", render_answer({"KeyId": KEY, "CiphertextBlob": b"\x00\xff"}))
    assert answer["CiphertextBlob"] == b"\x00\xff"


@pytest.mark.parametrize("moment", [1571767572.317499, datetime(2019, 10, 22, 18, 6, 12, 316_501, UTC)])
def test_moments_are_told_in_milliseconds(moment: object) -> None:
    made = {"CreationDate": moment}
    body = render_answer({"KeyMetadata": made, "Grants": [made], "Rotations": (made,)})
    told = {"CreationDate": 1571767572.317}
    assert json.loads(body) == {"KeyMetadata": told, "Grants": [told], "Rotations": [told]}


def test_answer_without_output_is_empty() -> None:
    assert render_answer(None) == b""
    assert render_answer({}) == b"{}"


def test_answer_of_an_unknown_type_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError):
        render_answer({"KeyId": object()})


@pytest.mark.parametrize(
    ("code", "member"), [("DisabledException", "message"), ("AccessDeniedException", "Message")]
)
def test_refusal_is_what_botocore_reads(code: str, member: str) -> None:
    body = render_refusal(Refusal(code, "Grüße"))
    assert json.loads(body) == {"__type": code, member: "Grüße"}
    assert parsed("Decrypt", body, 400)["Error"] == {"Code": code, "Message": "Grüße"}

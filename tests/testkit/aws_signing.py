"""Requests signed by botocore: what a real client sends."""

from datetime import UTC, datetime

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS_KEY_ID = "AKIDEXAMPLE000000001"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)

Headers = list[tuple[bytes, bytes]]


def signed_headers(
    body: bytes,
    *,
    target: str = "TrentService.ListKeys",
    region: str = "us-east-1",
    service: str = "kms",
    when: datetime = NOW,
    access_key_id: str = ACCESS_KEY_ID,
    secret: str = SECRET,
    token: str | None = None,
    extra: dict[str, str] | None = None,
) -> Headers:
    """Return the headers of a signed request as a server gets them, names in lower case."""
    headers = {
        "Host": "127.0.0.1:7600",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": target,
        **(extra or {}),
    }
    request = AWSRequest("POST", "http://127.0.0.1:7600/", headers=headers, data=body)
    timestamp = when.strftime("%Y%m%dT%H%M%SZ")
    request.context["timestamp"] = timestamp
    request.headers["X-Amz-Date"] = timestamp
    signer = SigV4Auth(Credentials(access_key_id, secret, token), service, region)
    if token:
        request.headers["X-Amz-Security-Token"] = token
    signer._inject_signature_to_request(request, _signature(signer, request))
    return [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]


def _signature(signer: SigV4Auth, request: AWSRequest) -> str:
    # add_auth() would put the wall clock's time over the one wanted here.
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


def replaced(headers: Headers, name: str, value: str) -> Headers:
    return [(found, value.encode() if found == name.encode() else old) for found, old in headers]


def without(headers: Headers, name: str) -> Headers:
    return [(found, value) for found, value in headers if found != name.encode()]


def value_of(headers: Headers, name: str) -> str:
    return next(value.decode() for found, value in headers if found == name.encode())

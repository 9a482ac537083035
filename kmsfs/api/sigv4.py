"""AWS Signature Version 4, verified for the service kms.

Pure: clock, credentials and request are arguments. What is signed is exactly what is served: one method, one
path, no query, and the hash of the body as it was received, never as a header claims it.
"""

import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

from kmsfs.api.refusal import Refusal
from kmsfs.errors import InvalidRequestError
from kmsfs.keystore.arn import check_region

Headers = Sequence[tuple[bytes, bytes]]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SERVICE: Final = "kms"
TERMINATOR: Final = "aws4_request"
MAX_SKEW: Final = timedelta(minutes=5)
REQUIRED_HEADERS: Final = ("host", "x-amz-date", "x-amz-target")
_PARAMETERS: Final = ("Credential", "Signature", "SignedHeaders")
_CACHED_KEYS: Final = 1024
_MAX_AUTHORIZATION: Final = 4096
_MAX_SIGNED_HEADERS: Final = 64

_DATE: Final = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
    "Access Key and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key and its secret."""

    access_key_id: str
    secret: bytes = field(repr=False)


#: Finds an access key by id and region. It must take the same time whether the key exists or not.
FindCredential = Callable[[str, str], Credential | None]

#: Stands in for the secret of an access key that does not exist, so that the same work is done.
_NOBODY: Final = Credential("", b"no such access key has this secret")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good signature vouches for."""

    access_key_id: str
    region: str
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class _Authorization:
    access_key_id: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{SERVICE}/{TERMINATOR}"


class Verifier:
    """Checks signatures; remembers the signing keys of those that were good."""

    def __init__(self, find_credential: FindCredential, *, max_skew: timedelta = MAX_SKEW) -> None:
        self._find_credential = find_credential
        self._max_skew = max_skew
        # Only good signatures put a key here: a stranger can neither fill the cache nor measure what is in it.
        self._signing_keys: OrderedDict[tuple[bytes, str, str], bytes] = OrderedDict()

    def verify(self, headers: Headers, body: bytes, *, now: datetime, query: bytes = b"") -> Verified:
        """Verify a POST of ``body`` to ``/``; header names are in lower case. Raise Refusal."""
        found = _grouped(headers)
        authorization = _read_authorization(found, query)
        signed_at, timestamp = _read_date(found, authorization)
        _check_required(found, authorization)
        _check_content_hash(found, body_hash := hashlib.sha256(body).hexdigest())
        to_sign = _string_to_sign(found, authorization, timestamp, body_hash)
        self._check_signature(authorization, to_sign)
        # After the signature: before it, anyone could read the server's clock with a made-up request.
        self._check_skew(signed_at, now)
        return Verified(authorization.access_key_id, authorization.region, signed_at)

    def _check_signature(self, authorization: _Authorization, to_sign: bytes) -> None:
        credential = self._find_credential(authorization.access_key_id, authorization.region)
        secret = (credential or _NOBODY).secret
        key_name = (secret, authorization.date, authorization.region)
        remembered = self._signing_keys.get(key_name)
        signing_key = remembered or derive_signing_key(*key_name)
        expected = hmac.digest(signing_key, to_sign, "sha256").hex()
        good = hmac.compare_digest(expected.encode(), authorization.signature.encode())
        if credential is None or not good:
            if remembered:
                derive_signing_key(
                    *key_name
                )  # a refusal costs the same whether the key was remembered or not
            if credential is None:
                raise Refusal(
                    "UnrecognizedClientException", "The security token included in the request is invalid."
                )
            _refuse(_MISMATCH)
        self._remember(key_name, signing_key)

    def _remember(self, name: tuple[bytes, str, str], signing_key: bytes) -> None:
        self._signing_keys[name] = signing_key
        self._signing_keys.move_to_end(name)
        if len(self._signing_keys) > _CACHED_KEYS:
            self._signing_keys.popitem(last=False)

    def _check_skew(self, signed_at: datetime, now: datetime) -> None:
        minutes = int(self._max_skew.total_seconds() // 60)
        if signed_at < now - self._max_skew:
            _refuse(
                f"Signature expired: {_stamp(signed_at)} is now earlier than {_stamp(now - self._max_skew)} "
                f"({_stamp(now)} - {minutes} min.)"
            )
        if signed_at > now + self._max_skew:
            _refuse(
                f"Signature not yet current: {_stamp(signed_at)} is still later than "
                f"{_stamp(now + self._max_skew)} ({_stamp(now)} + {minutes} min.)"
            )


def derive_signing_key(secret: bytes, date: str, region: str) -> bytes:
    """Return the key that signs one day's requests in one region."""
    key = hmac.digest(b"AWS4" + secret, date.encode(), "sha256")
    for part in (region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _refuse(message: str) -> NoReturn:
    raise Refusal("InvalidSignatureException", message)


def _incomplete(message: str) -> NoReturn:
    raise Refusal("IncompleteSignatureException", message)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _grouped(headers: Headers) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value)
    return found


def _only(found: dict[str, list[bytes]], name: str) -> str:
    """Return a header that may stand once; two would let signer and server read different ones."""
    values = found.get(name, [])
    if len(values) > 1:
        _incomplete(f"The request has more than one '{name}' header.")
    return values[0].decode("latin-1").strip() if values else ""


def _read_authorization(found: dict[str, list[bytes]], query: bytes) -> _Authorization:
    header = _only(found, "authorization")
    if query:
        raise Refusal(
            "MissingAuthenticationTokenException",
            "Requests with a query string are not accepted: sign the request in its Authorization header.",
        )
    if "x-amz-security-token" in found:
        raise Refusal(
            "UnrecognizedClientException",
            "The security token included in the request is invalid. Session tokens are not issued here: "
            "use a long-term access key.",
        )
    if not header:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    if len(header) > _MAX_AUTHORIZATION:
        _incomplete(f"Authorization header is longer than {_MAX_AUTHORIZATION} characters.")
    algorithm, _, rest = header.partition(" ")
    parameters = _parameters(rest, header) if algorithm == ALGORITHM else {}
    missing = [name for name in _PARAMETERS if not parameters.get(name)]
    if missing:
        complaints = " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        _incomplete(f"{complaints} {_hashed(header)}")
    return _scoped(parameters)


def _parameters(rest: str, header: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in rest.split(","):
        name, equals, value = pair.strip().partition("=")
        if not equals:
            _incomplete(
                f"'{name}' not a valid key=value pair (missing equal-sign) in Authorization header {_hashed(header)}"
            )
        if name in parameters:
            _incomplete(f"Authorization header has two '{name}' parameters. {_hashed(header)}")
        parameters[name] = value
    return parameters


def _hashed(header: str) -> str:
    # AWS, too, shows only a hash: the header may hold a secret that was put into the wrong place.
    digest = base64.b64encode(hashlib.sha256(header.encode()).digest()).decode()
    return f"(Hashed with SHA-256 and encoded with Base64) Authorization={digest}"


def _scoped(parameters: dict[str, str]) -> _Authorization:
    parts = parameters["Credential"].split("/")
    if len(parts) != 5:
        _incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
        )
    access_key_id, date, region, service, terminator = parts
    try:
        check_region(region)
    except InvalidRequestError:
        _refuse("Credential should be scoped to a valid region.")
    if service != SERVICE:
        _refuse(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if terminator != TERMINATOR:
        _refuse(f"Credential should be scoped with a valid terminator: '{TERMINATOR}'.")
    names = tuple(parameters["SignedHeaders"].split(";"))
    if len(names) > _MAX_SIGNED_HEADERS or list(names) != sorted(set(names)):
        _incomplete("'SignedHeaders' are not sorted and unique names in lower case.")
    return _Authorization(access_key_id, date, region, names, parameters["Signature"])


def _read_date(found: dict[str, list[bytes]], authorization: _Authorization) -> tuple[datetime, str]:
    text = _only(found, "x-amz-date")
    if not text:
        _incomplete("Authorization header requires existence of a 'X-Amz-Date' header.")
    try:
        if not _DATE.fullmatch(text):
            raise ValueError(text)
        moment = datetime(
            int(text[:4]),
            int(text[4:6]),
            int(text[6:8]),
            int(text[9:11]),
            int(text[11:13]),
            int(text[13:15]),
            tzinfo=UTC,
        )
    except ValueError:
        _incomplete("Date must be in ISO-8601 'basic format'.")
    if authorization.date != text[:8]:
        _refuse(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{authorization.date[:16]}' != '{text[:8]}', from '{text}'."
        )
    return moment, text


def _check_required(found: dict[str, list[bytes]], authorization: _Authorization) -> None:
    for name in REQUIRED_HEADERS:
        if name not in authorization.signed_headers:
            _refuse(f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
        _only(found, name)


def _check_content_hash(found: dict[str, list[bytes]], body_hash: str) -> None:
    claimed = _only(found, "x-amz-content-sha256")
    if claimed and not hmac.compare_digest(claimed.encode(), body_hash.encode()):
        _refuse("The provided 'x-amz-content-sha256' header does not match what was computed.")


def _string_to_sign(
    found: dict[str, list[bytes]], authorization: _Authorization, timestamp: str, body_hash: str
) -> bytes:
    lines = [b"POST", b"/", b""]
    for name in authorization.signed_headers:
        # A header that is signed and not sent counts as empty: then the signature does not match.
        value = b",".join(b" ".join(value.split()) for value in found.get(name, ()))
        lines.append(name.encode() + b":" + value)
    lines += [b"", ";".join(authorization.signed_headers).encode(), body_hash.encode()]
    canonical = hashlib.sha256(b"\n".join(lines)).hexdigest()
    return f"{ALGORITHM}\n{timestamp}\n{authorization.scope}\n{canonical}".encode()

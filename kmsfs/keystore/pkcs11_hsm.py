"""The token of one region, through ``pkcs11``.

Every call is made under the lock of the token's module (pkcs11_module.py). Key handles are cached, because a
look-up costs several encryptions. Values are type-checked before they become attributes: python-pkcs11
aborts the process on a wrong type.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.mechanisms import GCMParams

from kmsfs.errors import (
    HsmError,
    HsmUnavailableError,
    InsecureKeyError,
    IntegrityError,
    KeyNotFoundError,
    KmsfsError,
    ModuleInvalidError,
    TokenNotFoundError,
)
from kmsfs.format.blob import Suite
from kmsfs.keystore import pkcs11_objects as objects
from kmsfs.keystore.pkcs11_module import GONE_ERRORS, Pkcs11Module, reason
from kmsfs.keystore.ports import Digest, KeyKind, TokenKey
from kmsfs.keystore.softhsm import SoftHsmToken

RECOVERY_INTERVAL_S = 1.0  # how often a missing token may cost the module's other tokens their sessions

_STALE_ERRORS: Final = (
    *GONE_ERRORS,
    pkcs11.ObjectHandleInvalid,
    pkcs11.KeyHandleInvalid,
    pkcs11.SessionHandleInvalid,
    pkcs11.SessionClosed,
    pkcs11.UserNotLoggedIn,
    pkcs11.OperationActive,
    pkcs11.DeviceError,
)
_BAD_INPUT_ERRORS: Final = (  # of a decryption whose tag is wrong, or that is too short
    pkcs11.GeneralError,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
)


class _Use(NamedTuple):
    """The method that a key is used by, of what type the key must be, and what a bad input is."""

    method: str  # the public namesakes of these allot 8 KiB for each answer
    key_type: KeyType
    bad_input: type[KmsfsError]


_ENCRYPT: Final = _Use("_encrypt", KeyType.AES, HsmUnavailableError)
_DECRYPT: Final = _Use("_decrypt", KeyType.AES, IntegrityError)
_HMAC: Final = _Use("_sign", KeyType.GENERIC_SECRET, HsmUnavailableError)
_SIGN: Final = _Use("_sign", KeyType.EC, HsmUnavailableError)
_LONGEST_TAG: Final = 64  # of what is added to a ciphertext, or is itself the answer; more would be asked for
_AES_GCM: Final = Mechanism.AES_GCM  # to look it up each time takes as long as a call


class Pkcs11Hsm:
    """The token of one region (port ``Hsm``). Logs in at first use; recovers when a token comes back."""

    def __init__(
        self,
        module: Pkcs11Module,
        label: str,
        pin: Callable[[], str],
        *,
        anchor: bytes,
        place: SoftHsmToken | None,
    ) -> None:
        self.calls = 0
        self._module = module
        self._label = label
        self._pin = pin
        self._anchor = anchor  # a key that every token of ours holds: tells a dead session from a missing key
        self._place = place
        self._epoch = -1
        self._session: Any = None
        self._keys: dict[bytes, Any] = {}
        self._recovered_at = 0.0
        module.acquire()

    def close(self) -> None:
        """Give the module back."""
        self._module.release()

    def check_present(self) -> None:
        """Raise TokenNotFoundError if an embedded token's directory is away: one stat."""
        if self._place is not None and not self._place.exists():
            raise TokenNotFoundError(
                f"token {self._label} is away: {self._place.directory} does not exist",
                hint="put the token's directory back",
            )

    def encrypt_gcm(self, object_id: bytes, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return ciphertext || tag."""
        return self._run(_ENCRYPT, object_id, plaintext, _AES_GCM, GCMParams(iv, aad, 128))

    def decrypt_gcm(self, object_id: bytes, iv: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext, or raise IntegrityError."""
        return self._run(_DECRYPT, object_id, sealed, _AES_GCM, GCMParams(iv, aad, 128))

    def hmac(self, object_id: bytes, message: bytes, digest: Digest = Digest.SHA_256) -> bytes:
        """Return the HMAC of ``message``."""
        return self._run(_HMAC, object_id, message, objects.HMACS[digest])

    def offers_hmac(self, digest: Digest) -> bool:
        """Return whether the module does HMAC with that digest."""
        return self._offers(partial(objects.hmac_works, digest))

    def sign(self, object_id: bytes, digest: bytes) -> bytes:
        """Return the ECDSA signature r || s of a SHA-256 digest."""
        return self._run(_SIGN, object_id, digest, Mechanism.ECDSA)

    def public_key(self, object_id: bytes) -> bytes:
        """Return the public key of a pair as an uncompressed point."""
        found = self._with_session(
            lambda session: [
                objects.point_of(key) for key in objects.find(session, object_id, ObjectClass.PUBLIC_KEY)
            ]
        )
        if not found:
            raise KeyNotFoundError(f"public key {object_id.hex()} is not in token {self._label}")
        if len(found) > 1:
            raise InsecureKeyError(
                f"token {self._label} holds {len(found)} public keys of id {object_id.hex()}",
                hint="somebody added one: restore the token, and see kmsfs doctor",
            )
        return bytes(found[0])

    def offers_signatures(self) -> bool:
        """Return whether the module signs with ECDSA on P-256."""
        return self._offers(objects.signatures_work)

    def generate(self, kind: KeyKind, object_id: bytes, label: str, *, size: int = 32) -> None:
        """Make a sensitive, not extractable key of ``size`` bytes in the token."""
        _check_names(object_id, label)
        self._change(lambda session: objects.make_secret(session, kind, object_id, label, size))

    def generate_pair(self, object_id: bytes, label: str) -> None:
        """Make an EC P-256 key pair; the private key is sensitive and not extractable."""
        _check_names(object_id, label)
        self._change(lambda session: objects.make_pair(session, object_id, label))

    def put(self, kind: KeyKind, object_id: bytes, label: str, value: bytes) -> None:
        """Make a sensitive, not extractable key of a value that the caller knows."""
        _check_names(object_id, label)
        if not isinstance(value, bytes):
            raise TypeError("value must be bytes")
        self._change(lambda session: objects.put_secret(session, kind, object_id, label, value))

    def random(self, count: int) -> bytes:
        """Return bytes of the token's random number generator."""
        return bytes(self._with_session(lambda session: session.generate_random(count * 8)))

    def destroy(self, object_id: bytes) -> None:
        """Destroy the key, or both of a pair; one that is not there is no error."""
        with self._module.lock:
            self._change(lambda session: objects.destroy(session, object_id))
            self._keys.pop(object_id, None)

    def holds(self, object_id: bytes) -> bool:
        """Return whether the token holds the key: of a pair, the private one."""
        return bool(self._with_session(lambda session: objects.find(session, object_id)))

    def list_keys(self) -> list[TokenKey]:
        """Return every secret and private key object of the token."""
        keys: list[TokenKey] = self._with_session(objects.list_secrets)
        return keys

    def probe_suite(self) -> Suite:
        """Return suite 1 if the module does AES-GCM with our IV and AAD, else suite 2. Both need HMAC."""
        if not self.offers_hmac(Digest.SHA_256):
            raise ModuleInvalidError(f"module {self._module.path} does not offer HMAC-SHA-256")
        return Suite.HSM_GCM if self._offers(objects.gcm_works) else Suite.HSM_KDF

    def _offers(self, probe: Callable[[Any], bool]) -> bool:
        try:
            return bool(self._with_session(probe, retry=False))
        except HsmUnavailableError:
            with self._module.lock:  # a failed call can leave its operation active in the session
                self._module.reinitialize(self._conf)
            return False

    @property
    def _conf(self) -> Path | None:
        return self._place.conf if self._place else None

    def _run(
        self, use: _Use, object_id: bytes, data: bytes, mechanism: Mechanism, param: GCMParams | None = None
    ) -> bytes:
        """Return what the key makes of ``data``."""
        method, key_type, bad_input = use
        module = self._module
        self.calls += 1
        with module.lock:
            for last in (False, True):
                try:
                    if self._epoch != module.epoch:
                        self._connect()
                    key = self._keys.get(object_id) or self._load(object_id, key_type)
                    answer: bytes = getattr(key, method)(
                        data, mechanism, param, buffer_size=len(data) + _LONGEST_TAG
                    )
                    return answer
                except pkcs11.PKCS11Error as error:
                    self._judge(error, object_id, bad_input)
                    if last:
                        raise self._failure(error) from error
                self._recover()
        raise AssertionError("unreachable")

    def _change(self, change: Callable[[Any], object]) -> None:
        """Make or destroy key objects."""
        with self._module.lock, self._module.alone(self._conf):
            self._with_session(change)

    def _with_session(self, use: Callable[[Any], Any], *, retry: bool = True) -> Any:
        self.calls += 1
        with self._module.lock:
            for last in (not retry, True):
                try:
                    self._connect()
                    return use(self._session)
                except pkcs11.PKCS11Error as error:
                    if last:
                        raise self._failure(error) from error
                self._recover()
        raise AssertionError("unreachable")

    def _failure(self, error: Exception) -> HsmError | KeyNotFoundError:
        if isinstance(error, pkcs11.NoSuchKey):
            return KeyNotFoundError(
                f"token {self._label} holds none of the region's keys", hint="connect the right token"
            )
        if isinstance(error, GONE_ERRORS):
            return TokenNotFoundError(
                f"token {self._label} is away: {reason(error)}", hint="connect the token"
            )
        return HsmUnavailableError(f"token {self._label}: {reason(error)}", hint="try again")

    def _judge(self, error: Exception, object_id: bytes, bad_input: type[KmsfsError]) -> None:
        """Raise if the token lives, so that the failure is about this key or this input; else return."""
        if isinstance(error, _STALE_ERRORS):
            return
        if isinstance(error, pkcs11.NoSuchKey):
            if self._holds(self._anchor):
                raise KeyNotFoundError(
                    f"key material {object_id.hex()} is not in token {self._label}"
                ) from error
        elif isinstance(error, _BAD_INPUT_ERRORS) and self._holds(object_id) and self._works():
            raise bad_input("authentication tag does not verify") from error

    def _holds(self, object_id: bytes) -> bool:
        self.check_present()
        if self._epoch != self._module.epoch:
            return False
        try:
            return any(key[Attribute.ID] == object_id for key in objects.find(self._session, object_id))
        except pkcs11.PKCS11Error:
            return False

    def _works(self) -> bool:
        """Return whether an operation that cannot fail by its input succeeds.

        SoftHSM reports a bad tag and a dead token alike (GeneralError): this tells them apart.
        """
        self.calls += 1
        try:
            anchor = self._keys.get(self._anchor) or self._load(self._anchor, KeyType.GENERIC_SECRET)
            anchor.sign(b"kmsfs", mechanism=Mechanism.SHA256_HMAC)
        except pkcs11.PKCS11Error:
            return False
        return True

    def _recover(self) -> None:
        """Start the module afresh: after a token's absence its sessions and handles stay broken."""
        self.check_present()
        now = time.monotonic()
        if self._place is None and now - self._recovered_at < RECOVERY_INTERVAL_S:
            raise TokenNotFoundError(f"token {self._label} does not answer", hint="try again in a second")
        self._recovered_at = now
        self._module.reinitialize(self._conf)

    def _connect(self) -> None:
        if self._epoch == self._module.epoch:
            return
        self._keys.clear()
        self.check_present()
        try:
            self._login()
        except (TokenNotFoundError, pkcs11.PKCS11Error):
            self._recover()  # the token may have come since the module was initialised
            try:
                self._login()
            except pkcs11.PKCS11Error as error:
                raise self._failure(error) from error

    def _login(self) -> None:
        self._session = self._module.session(self._label, self._conf, self._pin)
        self._epoch = self._module.epoch

    def _load(self, object_id: bytes, key_type: KeyType) -> Any:
        found = objects.find(self._session, object_id, objects.class_of(key_type))
        if not found:
            raise pkcs11.NoSuchKey(object_id.hex())
        key = found[0]
        described = objects.describe(key)
        if len(found) > 1 or not described.sensitive or described.extractable or key.key_type != key_type:
            raise InsecureKeyError(
                f"key material {object_id.hex()} in token {self._label} is extractable, not sensitive"
                " or of a wrong type",
                hint="somebody replaced the key: restore the token, and see kmsfs doctor",
            )
        self._keys[object_id] = key
        return key


def _check_names(object_id: bytes, label: str) -> None:
    if not isinstance(object_id, bytes) or not isinstance(label, str):
        raise TypeError("object id must be bytes and label must be str")

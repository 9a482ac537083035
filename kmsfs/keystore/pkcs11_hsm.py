"""The token of one region, through ``pkcs11``.

Every call is made under the lock of the token's module (pkcs11_module.py). Key handles are cached, because a
look-up costs several encryptions. Values are type-checked before they become attributes: python-pkcs11
aborts the process on a wrong type.
"""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
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
_GENERATE: Final = {
    KeyKind.AES: (KeyType.AES, Mechanism.AES_KEY_GEN, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT),
    KeyKind.HMAC: (KeyType.GENERIC_SECRET, Mechanism.GENERIC_SECRET_KEY_GEN, MechanismFlag.SIGN),
}
_HMACS: Final = {
    Digest.SHA_224: Mechanism.SHA224_HMAC,
    Digest.SHA_256: Mechanism.SHA256_HMAC,
    Digest.SHA_384: Mechanism.SHA384_HMAC,
    Digest.SHA_512: Mechanism.SHA512_HMAC,
}
_CAPABILITIES: Final = {
    MechanismFlag.ENCRYPT: Attribute.ENCRYPT,
    MechanismFlag.DECRYPT: Attribute.DECRYPT,
    MechanismFlag.SIGN: Attribute.SIGN,
}
#: Which key is used by which method, and what a bad input is. Their public namesakes allot 8 KiB for each answer.
_USES: Final[dict[str, tuple[KeyKind, type[KmsfsError]]]] = {
    "_encrypt": (KeyKind.AES, HsmUnavailableError),
    "_decrypt": (KeyKind.AES, IntegrityError),
    "_sign": (KeyKind.HMAC, HsmUnavailableError),
}
_LONGEST_TAG: Final = 64  # of what is added to a ciphertext, or is itself the answer; more would be asked for
_AES_GCM: Final = Mechanism.AES_GCM  # to look it up each time takes as long as a call
_TEMPLATE: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}


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
        return self._run("_encrypt", object_id, plaintext, _AES_GCM, GCMParams(iv, aad, 128))

    def decrypt_gcm(self, object_id: bytes, iv: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext, or raise IntegrityError."""
        return self._run("_decrypt", object_id, sealed, _AES_GCM, GCMParams(iv, aad, 128))

    def hmac(self, object_id: bytes, message: bytes, digest: Digest = Digest.SHA_256) -> bytes:
        """Return the HMAC of ``message``."""
        return self._run("_sign", object_id, message, _HMACS[digest])

    def offers_hmac(self, digest: Digest) -> bool:
        """Return whether the module does HMAC with that digest."""
        return self._offers(partial(_hmac_works, digest))

    def generate(self, kind: KeyKind, object_id: bytes, label: str, *, size: int = 32) -> None:
        """Make a sensitive, not extractable key of ``size`` bytes in the token."""
        if not isinstance(object_id, bytes) or not isinstance(label, str):
            raise TypeError("object id must be bytes and label must be str")
        key_type, mechanism, capabilities = _GENERATE[kind]
        with self._module.lock, self._module.alone(self._conf):
            self._with_session(
                lambda session: session.generate_key(
                    key_type, size * 8, id=object_id, label=label, store=True, capabilities=capabilities,
                    mechanism=mechanism, template=_TEMPLATE,
                )
            )  # fmt: skip

    def put(self, kind: KeyKind, object_id: bytes, label: str, value: bytes) -> None:
        """Make a sensitive, not extractable key of a value that the caller knows."""
        if not isinstance(object_id, bytes) or not isinstance(label, str) or not isinstance(value, bytes):
            raise TypeError("object id and value must be bytes and label must be str")
        key_type, _, capabilities = _GENERATE[kind]
        attributes = {
            **_TEMPLATE,
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: True,
            Attribute.ID: object_id,
            Attribute.LABEL: label,
            Attribute.VALUE: value,
            **{attribute: bool(flag & capabilities) for flag, attribute in _CAPABILITIES.items()},
        }
        with self._module.lock, self._module.alone(self._conf):
            self._with_session(lambda session: session.create_object(attributes))

    def random(self, count: int) -> bytes:
        """Return bytes of the token's random number generator."""
        return bytes(self._with_session(lambda session: session.generate_random(count * 8)))

    def destroy(self, object_id: bytes) -> None:
        """Destroy the key; one that is not there is no error."""
        with self._module.lock, self._module.alone(self._conf):
            self._with_session(lambda session: [key.destroy() for key in _find(session, object_id)])
            self._keys.pop(object_id, None)

    def holds(self, object_id: bytes) -> bool:
        """Return whether the token holds the key."""
        return bool(self._with_session(lambda session: _find(session, object_id)))

    def list_keys(self) -> list[TokenKey]:
        """Return every secret key object of the token."""
        keys: list[TokenKey] = self._with_session(
            lambda session: [
                _describe(key) for key in session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})
            ]
        )
        return keys

    def probe_suite(self) -> Suite:
        """Return suite 1 if the module does AES-GCM with our IV and AAD, else suite 2. Both need HMAC."""
        if not self.offers_hmac(Digest.SHA_256):
            raise ModuleInvalidError(f"module {self._module.path} does not offer HMAC-SHA-256")
        return Suite.HSM_GCM if self._offers(_gcm_works) else Suite.HSM_KDF

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
        self, use: str, object_id: bytes, data: bytes, mechanism: Mechanism, param: GCMParams | None = None
    ) -> bytes:
        """Return what the key's method ``use`` makes of ``data``."""
        kind, bad_input = _USES[use]
        room = len(data) + _LONGEST_TAG
        answer: bytes
        self.calls += 1
        with self._module.lock:
            try:
                key = self._key(object_id, kind)
                answer = getattr(key, use)(data, mechanism, param, buffer_size=room)
                return answer
            except pkcs11.PKCS11Error as error:
                self._judge(error, object_id, bad_input)
            self._recover()
            try:
                key = self._key(object_id, kind)
                answer = getattr(key, use)(data, mechanism, param, buffer_size=room)
                return answer
            except pkcs11.PKCS11Error as error:
                self._judge(error, object_id, bad_input)
                raise self._failure(error) from error

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
            return any(key[Attribute.ID] == object_id for key in _find(self._session, object_id))
        except pkcs11.PKCS11Error:
            return False

    def _works(self) -> bool:
        """Return whether an operation that cannot fail by its input succeeds.

        SoftHSM reports a bad tag and a dead token alike (GeneralError): this tells them apart.
        """
        self.calls += 1
        try:
            self._key(self._anchor, KeyKind.HMAC).sign(b"kmsfs", mechanism=Mechanism.SHA256_HMAC)
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

    def _key(self, object_id: bytes, kind: KeyKind) -> Any:
        if self._epoch != self._module.epoch:
            self._connect()
        key = self._keys.get(object_id)
        if key is None:
            key = self._keys[object_id] = self._load(object_id, kind)
        return key

    def _load(self, object_id: bytes, kind: KeyKind) -> Any:
        found = _find(self._session, object_id)
        if not found:
            raise pkcs11.NoSuchKey(object_id.hex())
        key = found[0]
        described = _describe(key)
        if (
            len(found) > 1
            or not described.sensitive
            or described.extractable
            or key.key_type != _GENERATE[kind][0]
        ):
            raise InsecureKeyError(
                f"key material {object_id.hex()} in token {self._label} is extractable, not sensitive"
                " or of a wrong type",
                hint="somebody replaced the key: restore the token, and see kmsfs doctor",
            )
        return key


def _find(session: Any, object_id: bytes) -> list[Any]:
    if not isinstance(object_id, bytes):
        raise TypeError("object id must be bytes")
    return list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.ID: object_id}))


def _describe(key: Any) -> TokenKey:
    try:
        sensitive, extractable = key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE]
        local = key[Attribute.LOCAL]
    except pkcs11.AttributeTypeInvalid:
        sensitive, extractable, local = False, True, False  # what cannot be shown to be safe counts as unsafe
    return TokenKey(bytes(key.id), key.label, sensitive, extractable, local)


def _gcm_works(session: Any) -> bool:
    _, mechanism, capabilities = _GENERATE[KeyKind.AES]
    key = session.generate_key(KeyType.AES, 256, capabilities=capabilities, mechanism=mechanism)
    try:
        plaintext, param = bytes(32), GCMParams(random_bytes(NONCE_SIZE), b"kmsfs", 128)
        first, second = (
            key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=param) for _ in range(2)
        )
        # A module that picks its own IV gives two different ciphertexts, and never tells which IV it took.
        opened = key.decrypt(first, mechanism=Mechanism.AES_GCM, mechanism_param=param)
        return first == second and len(first) == 48 and opened == plaintext
    finally:
        key.destroy()


def _hmac_works(digest: Digest, session: Any) -> bool:
    key_type, mechanism, capabilities = _GENERATE[KeyKind.HMAC]
    size = hashlib.new(digest.value).digest_size
    key = session.generate_key(key_type, size * 8, capabilities=capabilities, mechanism=mechanism)
    try:
        return len(key.sign(b"kmsfs", mechanism=_HMACS[digest])) == size
    finally:
        key.destroy()

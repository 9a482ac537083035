"""Key objects in a token: how they are made, found and described, and whether the module can use them.

For pkcs11_hsm.py, under whose lock all of it is called. Values are type-checked before they get here.
"""

import hashlib
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.mechanisms import GCMParams

from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.crypto.signatures import POINT_SIZE, RAW_SIZE
from kmsfs.keystore.ports import Digest, KeyKind, TokenKey

GENERATE: Final = {
    KeyKind.AES: (KeyType.AES, Mechanism.AES_KEY_GEN, MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT),
    KeyKind.HMAC: (KeyType.GENERIC_SECRET, Mechanism.GENERIC_SECRET_KEY_GEN, MechanismFlag.SIGN),
}
HMACS: Final = {
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
_TEMPLATE: Final = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
_PUBLIC_TEMPLATE: Final = {
    Attribute.PRIVATE: True,  # nobody puts another in its place without the PIN
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
_P256: Final = bytes.fromhex("06082a8648ce3d030107")  # the curve's object identifier, DER
_SECRET_CLASSES: Final = (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY)


def class_of(key_type: KeyType) -> ObjectClass:
    """Return the class of the object that holds the secret of such a key."""
    return ObjectClass.PRIVATE_KEY if key_type is KeyType.EC else ObjectClass.SECRET_KEY


def make_secret(session: Any, kind: KeyKind, object_id: bytes, label: str, size: int) -> None:
    """Have the token make a secret key."""
    key_type, mechanism, capabilities = GENERATE[kind]
    session.generate_key(
        key_type, size * 8, id=object_id, label=label, store=True, capabilities=capabilities,
        mechanism=mechanism, template=_TEMPLATE,
    )  # fmt: skip


def put_secret(session: Any, kind: KeyKind, object_id: bytes, label: str, value: bytes) -> None:
    """Put a secret key of a known value into the token."""
    key_type, _, capabilities = GENERATE[kind]
    session.create_object(
        {
            **_TEMPLATE,
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: True,
            Attribute.ID: object_id,
            Attribute.LABEL: label,
            Attribute.VALUE: value,
            **{attribute: bool(flag & capabilities) for flag, attribute in _CAPABILITIES.items()},
        }
    )


def make_pair(session: Any, object_id: bytes, label: str, *, store: bool = True) -> tuple[Any, Any]:
    """Have the token make an EC P-256 key pair; return the public and the private key."""
    curve = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _P256}, local=True)
    pair: tuple[Any, Any] = curve.generate_keypair(
        id=object_id, label=label, store=store, capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=Mechanism.EC_KEY_PAIR_GEN, public_template=_PUBLIC_TEMPLATE, private_template=_TEMPLATE,
    )  # fmt: skip
    return pair


def find(session: Any, object_id: bytes, *classes: ObjectClass) -> list[Any]:
    """Return the objects of that id that hold a secret, or those of the given classes."""
    if not isinstance(object_id, bytes):
        raise TypeError("object id must be bytes")
    return [
        found
        for wanted in classes or _SECRET_CLASSES
        for found in session.get_objects({Attribute.CLASS: wanted, Attribute.ID: object_id})
    ]


def destroy(session: Any, object_id: bytes) -> None:
    """Destroy every key object of that id."""
    for key in find(session, object_id, ObjectClass.PUBLIC_KEY, *_SECRET_CLASSES):
        key.destroy()


def list_secrets(session: Any) -> list[TokenKey]:
    """Return every object of the token that holds a secret key."""
    return [
        describe(key) for wanted in _SECRET_CLASSES for key in session.get_objects({Attribute.CLASS: wanted})
    ]


def describe(key: Any) -> TokenKey:
    """Return what the token says of a key."""
    try:
        sensitive, extractable = key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE]
        local = key[Attribute.LOCAL]
    except pkcs11.AttributeTypeInvalid:
        sensitive, extractable, local = False, True, False  # what cannot be shown to be safe counts as unsafe
    return TokenKey(bytes(key.id), key.label, sensitive, extractable, local)


def point_of(public: Any) -> bytes:
    """Return the uncompressed point that a public key is."""
    wrapped = bytes(public[Attribute.EC_POINT])
    return wrapped[-POINT_SIZE:]  # an OCTET STRING, DER; some modules leave its two bytes of head out


def gcm_works(session: Any) -> bool:
    """Return whether the module does AES-GCM with our IV and AAD."""
    _, mechanism, capabilities = GENERATE[KeyKind.AES]
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


def hmac_works(digest: Digest, session: Any) -> bool:
    """Return whether the module does HMAC with that digest."""
    key_type, mechanism, capabilities = GENERATE[KeyKind.HMAC]
    size = hashlib.new(digest.value).digest_size
    key = session.generate_key(key_type, size * 8, capabilities=capabilities, mechanism=mechanism)
    try:
        return len(key.sign(b"kmsfs", mechanism=HMACS[digest])) == size
    finally:
        key.destroy()


def signatures_work(session: Any) -> bool:
    """Return whether the module signs with ECDSA on P-256."""
    public, private = make_pair(session, b"", "", store=False)
    try:
        signature = private.sign(bytes(32), mechanism=Mechanism.ECDSA)
        return len(signature) == RAW_SIZE and len(point_of(public)) == POINT_SIZE
    finally:
        private.destroy()
        public.destroy()

"""What the use of keys answers. Frozen; plaintext never shows in a repr."""

from typing import NamedTuple

from kmsfs.ids import KeyArn, MaterialId


class GeneratedDataKey(NamedTuple):
    """A new data key, clear and wrapped."""

    plaintext: bytes
    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId

    def __repr__(self) -> str:
        return f"GeneratedDataKey(key_arn={self.key_arn!r}, ...)"


class EncryptResult(NamedTuple):
    """The blob of an encrypt call."""

    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId


class DecryptResult(NamedTuple):
    """The plaintext of a decrypt call and the key that it was under."""

    plaintext: bytes
    key_arn: KeyArn
    material_id: MaterialId

    def __repr__(self) -> str:
        return f"DecryptResult(key_arn={self.key_arn!r}, ...)"


class ReEncryptResult(NamedTuple):
    """The blob of a re-encrypt call; the plaintext never leaves the keystore."""

    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId
    source_key_arn: KeyArn
    source_material_id: MaterialId

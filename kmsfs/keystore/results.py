"""What the use of keys answers. Frozen; plaintext never shows in a repr."""

from dataclasses import dataclass, field

from kmsfs.ids import KeyArn, MaterialId


@dataclass(frozen=True, slots=True)
class GeneratedDataKey:
    """A new data key, clear and wrapped."""

    plaintext: bytes = field(repr=False)
    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId


@dataclass(frozen=True, slots=True)
class EncryptResult:
    """The blob of an encrypt call."""

    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId


@dataclass(frozen=True, slots=True)
class DecryptResult:
    """The plaintext of a decrypt call and the key that it was under."""

    plaintext: bytes = field(repr=False)
    key_arn: KeyArn
    material_id: MaterialId


@dataclass(frozen=True, slots=True)
class ReEncryptResult:
    """The blob of a re-encrypt call; the plaintext never leaves the keystore."""

    blob: bytes
    key_arn: KeyArn
    material_id: MaterialId
    source_key_arn: KeyArn
    source_material_id: MaterialId

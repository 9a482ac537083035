"""Actions that use a key."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.refusal import Refusal
from kmsfs.crypto.entropy import random_bytes
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.results import GeneratedDataKey
from kmsfs.keystore.transitions import Operation

ALGORITHM: Final = "SYMMETRIC_DEFAULT"
_SPECS: Final = {"AES_256": 32, "AES_128": 16}


def encrypt(call: ActionCall) -> Output:
    """Encrypt up to 4,096 bytes."""
    key = call.key()
    call.check_algorithm(key)
    call.finish_dry_run(key, Operation.ENCRYPT)
    made = call.keystore.encrypt(key.arn, call.blob("Plaintext"), call.context(), region=call.region)
    return {"CiphertextBlob": made.blob, "KeyId": made.key_arn, "EncryptionAlgorithm": ALGORITHM}


def decrypt(call: ActionCall) -> Output:
    """Decrypt a blob of this region."""
    blob, key, ref = _of_blob(call, "KeyId", "EncryptionAlgorithm")
    call.speak_of(key)
    call.finish_dry_run(key, Operation.DECRYPT)
    found = call.keystore.decrypt(blob, call.context(), ref=ref, region=call.region)
    return {
        "KeyId": found.key_arn,
        "Plaintext": found.plaintext,
        "EncryptionAlgorithm": ALGORITHM,
        "KeyMaterialId": found.material_id.hex(),
    }


def re_encrypt(call: ActionCall) -> Output:
    """Encrypt a blob's plaintext under another key of this region; it is not shown."""
    blob, source, ref = _of_blob(call, "SourceKeyId", "SourceEncryptionAlgorithm")
    target = call.key("DestinationKeyId")
    call.check_algorithm(target, "DestinationEncryptionAlgorithm")
    call.speak_of(target if source.to_aws()["Enabled"] else source)
    if call.parameters.get("DryRun"):
        call.keystore.check_usable(source.arn)
    call.finish_dry_run(target, Operation.ENCRYPT)
    moved = call.keystore.re_encrypt(
        blob,
        call.context("SourceEncryptionContext"),
        target.arn,
        call.context("DestinationEncryptionContext"),
        region=call.region,
        source_ref=ref,
        source_region=call.region,
    )
    return {
        "CiphertextBlob": moved.blob,
        "SourceKeyId": moved.source_key_arn,
        "KeyId": moved.key_arn,
        "SourceEncryptionAlgorithm": ALGORITHM,
        "DestinationEncryptionAlgorithm": ALGORITHM,
        "SourceKeyMaterialId": moved.source_material_id.hex(),
        "DestinationKeyMaterialId": moved.material_id.hex(),
    }


def generate_data_key(call: ActionCall) -> Output:
    """Make a data key, clear and wrapped."""
    made = _data_key(call, for_use=True)
    return {"Plaintext": made.plaintext, **_wrapped(made)}


def generate_data_key_without_plaintext(call: ActionCall) -> Output:
    """Make a data key, only wrapped."""
    return _wrapped(_data_key(call, for_use=False))


def generate_random(call: ActionCall) -> Output:
    """Return random bytes."""
    size = call.parameters.get("NumberOfBytes")
    if not isinstance(size, int):
        raise Refusal("ValidationException", "NumberOfBytes is required.")
    return {"Plaintext": random_bytes(size)}


def _of_blob(call: ActionCall, name: str, algorithm: str) -> tuple[bytes, KeyMetadata, str | None]:
    """Return the blob, the key that it is under, and the ARN of the key if the request names it."""
    blob, ref = call.blob("CiphertextBlob"), None
    if name in call.parameters:
        named = call.key(name)
        call.check_algorithm(named, algorithm)  # before the blob may turn out to be another key's
        ref = named.arn
    key = call.keystore.key_of_blob(blob, ref=ref, region=call.region)
    if ref is None:
        call.check_algorithm(key, algorithm)
    return blob, key, ref


def _data_key(call: ActionCall, *, for_use: bool) -> GeneratedDataKey:
    key = call.key()
    call.finish_dry_run(key, Operation.GENERATE_DATA_KEY)
    size = call.parameters.get("NumberOfBytes") or _SPECS[call.text("KeySpec")]
    assert isinstance(size, int)  # noqa: S101 - the shape has seen to it
    return call.keystore.generate_data_key(
        key.arn, call.context(), region=call.region, length=size, for_use=for_use
    )


def _wrapped(made: GeneratedDataKey) -> dict[str, object]:
    return {
        "CiphertextBlob": made.blob,
        "KeyId": made.key_arn,
        "KeyMaterialId": made.material_id.hex(),
    }

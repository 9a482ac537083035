"""What each key spec says of a CMK's material and use: one table."""

from dataclasses import dataclass
from typing import Final

from kmsfs.errors import InvalidRequestError, WrongAlgorithmError
from kmsfs.keystore.model import KeyMetadata, KeySpec, KeyUsage
from kmsfs.keystore.policy.actions import CONTEXT_ACTIONS, UNCONSTRAINED
from kmsfs.keystore.ports import Digest


@dataclass(frozen=True, slots=True)
class SpecFacts:
    """One row. ``digest`` is that of the key's MAC algorithm; encryption keys have none."""

    usage: KeyUsage
    size: int  # of the material, in bytes
    digest: Digest | None = None


SPECS: Final[dict[KeySpec, SpecFacts]] = {
    KeySpec.SYMMETRIC_DEFAULT: SpecFacts(KeyUsage.ENCRYPT_DECRYPT, 32),
    KeySpec.HMAC_224: SpecFacts(KeyUsage.GENERATE_VERIFY_MAC, 28, Digest.SHA_224),
    KeySpec.HMAC_256: SpecFacts(KeyUsage.GENERATE_VERIFY_MAC, 32, Digest.SHA_256),
    KeySpec.HMAC_384: SpecFacts(KeyUsage.GENERATE_VERIFY_MAC, 48, Digest.SHA_384),
    KeySpec.HMAC_512: SpecFacts(KeyUsage.GENERATE_VERIFY_MAC, 64, Digest.SHA_512),
}


def mac_algorithm(spec: KeySpec) -> str:
    """Return AWS's name of the spec's MAC algorithm; of an encryption key, that of one which will be refused."""
    digest = SPECS[spec].digest or Digest.SHA_256
    return f"HMAC_{digest.name}"


def mac_digest(key: KeyMetadata, algorithm: str) -> Digest:
    """Return the digest of a MAC algorithm, or raise WrongAlgorithmError if the key has another one."""
    digest = SPECS[key.spec].digest
    if digest is None or algorithm != mac_algorithm(key.spec):
        raise WrongAlgorithmError(
            f"algorithm {algorithm} is incompatible with key spec {key.spec.value} of {key.arn}"
        )
    return digest


_GRANTED: Final = {
    KeyUsage.ENCRYPT_DECRYPT: frozenset(action.removeprefix("kms:") for action in CONTEXT_ACTIONS),
    KeyUsage.GENERATE_VERIFY_MAC: frozenset({"GenerateMac", "VerifyMac"}),
}


def check_grantable(key: KeyMetadata, operations: frozenset[str]) -> None:
    """Raise InvalidRequestError if a grant names operations that no key of that usage does."""
    foreign = operations - _GRANTED[key.usage] - UNCONSTRAINED
    if foreign:
        raise InvalidRequestError(
            f"grant operations {', '.join(sorted(foreign))} are not for key usage {key.usage.value} of {key.arn}"
        )

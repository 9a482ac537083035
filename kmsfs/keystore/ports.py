"""What the key management service needs of a token, of a metadata store and of an audit log.

Each port has one contract suite in tests/contract that every implementation passes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from kmsfs.format.blob import Suite
from kmsfs.ids import Region
from kmsfs.keystore.audit import Actor, Event


class KeyKind(StrEnum):
    """What a key object in a token is for."""

    AES = "aes"  # encrypt and decrypt: suite 1
    HMAC = "hmac"  # sign only: suite 2, MAC keys, and the keystore's own keys


class Digest(StrEnum):
    """The hash of an HMAC."""

    SHA_224 = "sha224"
    SHA_256 = "sha256"
    SHA_384 = "sha384"
    SHA_512 = "sha512"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A secret or private key object as the token describes it."""

    object_id: bytes
    label: str
    sensitive: bool
    extractable: bool
    local: bool  # made in the token, as far as the token vouches for it


class Hsm(Protocol):
    """One region's token. Thread-safe. Every method may raise an HsmError.

    Object ids are 32 bytes. A key that is extractable or not sensitive is refused with InsecureKeyError; one
    that is not there with KeyNotFoundError. Logging in happens at first use.
    """

    calls: int  # cryptographic operations asked of the module so far

    def check_present(self) -> None:
        """Raise TokenNotFoundError if the token is known to be away. Costs microseconds, calls no module."""

    def probe_suite(self) -> Suite:
        """Return the wrap suite that the module can do."""

    def offers_hmac(self, digest: Digest) -> bool:
        """Return whether the module does HMAC with that digest."""

    def offers_signatures(self) -> bool:
        """Return whether the module signs with ECDSA on P-256."""

    def generate(self, kind: KeyKind, object_id: bytes, label: str, *, size: int = 32) -> None:
        """Make a sensitive, not extractable key of ``size`` bytes in the token."""

    def generate_pair(self, object_id: bytes, label: str) -> None:
        """Make an EC P-256 key pair in the token; the private key is sensitive and not extractable."""

    def put(self, kind: KeyKind, object_id: bytes, label: str, value: bytes) -> None:
        """Make a sensitive, not extractable key of a value that the caller knows."""

    def random(self, count: int) -> bytes:
        """Return bytes of the token's random number generator."""

    def destroy(self, object_id: bytes) -> None:
        """Destroy the key, or both of a pair; one that is not there is no error."""

    def list_keys(self) -> list[TokenKey]:
        """Return every secret and private key object of the token."""

    def holds(self, object_id: bytes) -> bool:
        """Return whether the token holds the key: of a pair, the private one."""

    def encrypt_gcm(self, object_id: bytes, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return ciphertext || tag."""

    def decrypt_gcm(self, object_id: bytes, iv: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext, or raise IntegrityError."""

    def hmac(self, object_id: bytes, message: bytes, digest: Digest = Digest.SHA_256) -> bytes:
        """Return the HMAC of ``message``."""

    def sign(self, object_id: bytes, digest: bytes) -> bytes:
        """Return the ECDSA signature of a SHA-256 digest under the private key of a pair: r || s, 64 bytes."""

    def public_key(self, object_id: bytes) -> bytes:
        """Return the public key of a pair: an uncompressed point, 65 bytes. The token does not vouch for it."""

    def close(self) -> None:
        """Give the token back."""


class AuditSink(Protocol):
    """Where the uses of one region's keys are recorded. Thread-safe.

    Raises AuditUnavailableError when it cannot record: the caller then gives no answer.
    """

    itself: Actor  # on whose behalf keys are used where nobody else is named (``acting``)

    def record(self, event: Event) -> None:
        """Write one record, or see that one will tell of it."""


Value = str | int | None

KEY_COLUMNS: Final = {
    "region_state": "region",
    "keys": "key_id",
    "materials": "material_id",
    "aliases": "name",
    "audit_segments": "segment_id",
    "credentials": "access_key_id",
    "tags": "tag_id",
    "users": "name",
    "identity_policies": "policy_id",
    "key_policies": "key_id",
    "grants": "grant_id",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One metadata row: the values of every column but the MAC, and the MAC in hex."""

    table: str
    values: Mapping[str, Value]
    mac: str

    @property
    def key(self) -> tuple[str, Value]:
        """The table and the primary key within the region."""
        return self.table, self.values[KEY_COLUMNS[self.table]]


class ConflictError(Exception):
    """Another writer was first: read again and decide again. Never leaves the keystore."""


class MetadataStore(Protocol):
    """Rows by region. It keeps and returns what it is given; that rows are authentic is ledger.py's business.

    Thread-safe. Raises MetadataUnavailableError when the store is missing, locked, damaged or too new.
    """

    def changed(self) -> bool:
        """Return whether another connection wrote since the last call. Cheap: asked once a second."""

    def read(self, region: Region) -> list[Row]:
        """Return the region's rows of all tables, as of one moment."""

    def write(
        self,
        region: Region,
        expected_counter: int | None,
        puts: Sequence[Row],
        deletes: Sequence[tuple[str, Value]],
    ) -> None:
        """Insert or replace ``puts`` and remove ``deletes`` at once.

        Only if the region's counter is still ``expected_counter`` (None: it has no state row); otherwise
        nothing changes and ConflictError is raised.
        """

    def exclusively(self) -> AbstractContextManager[None]:
        """Hold back other hosts that ask for the same: around keys that a shared token must get once."""

    def close(self) -> None:
        """Release the store."""

"""Everything that can go wrong, by cause.

No errno, HTTP status or exit code stands here: each shell (fuse, api, cli) has one total table,
and a test walks every leaf of this hierarchy through all of them. A message names the object and
never carries a key, a PIN or a clear file name; ``hint`` is the next step for a person.
"""

from typing import Self


class KmsfsError(Exception):
    """Base of all errors that kmsfs raises on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def about(self, kind: str, name: str) -> Self:
        """Return the same error with a message that begins with what it is about, unless that is in it already."""
        return self if name in str(self) else type(self)(f"{kind} {name}: {self}", hint=self.hint)


# --- bytes on disk ------------------------------------------------------------------------------
class FormatError(KmsfsError):
    """Bytes do not parse as what they should be."""


class UnsupportedFormatError(FormatError):
    """Well-formed, but of a newer version or with an unknown incompatible flag."""


class IntegrityError(KmsfsError):
    """Bytes parse, but their tag, MAC, commitment or length is not authentic."""


class KeyExhaustedError(KmsfsError):
    """A key has reached its cryptographic use limit (docs/format.md, limits)."""


# --- keystore -----------------------------------------------------------------------------------
class KeystoreError(KmsfsError):
    """Base of the key management service's refusals."""


class InvalidRequestError(KeystoreError):
    """A parameter is out of its documented range (AWS: ValidationException)."""


class UnsupportedOperationError(KeystoreError):
    """The key's kind, or the token's module, cannot do that at all."""


class WrongOriginError(UnsupportedOperationError):
    """Material that was made in the token is not imported or deleted; what was imported rotates on demand only."""


class NeverRotatesError(UnsupportedOperationError):
    """Keys of that spec keep their material."""


class NotPrimaryError(UnsupportedOperationError):
    """The key is of one region, or a replica: only the primary of a multi-region key does that."""


class LimitExceededError(KeystoreError):
    """A quota is used up."""


class AliasesUsedUpError(LimitExceededError):
    """The key has as many aliases as a key may have."""


class RotationsUsedUpError(LimitExceededError):
    """The key was rotated on demand as often as a key may be."""


class RegionNotFoundError(KeystoreError):
    """No such region is configured."""


class KeyNotFoundError(KeystoreError):
    """The key, or the material a blob names, is not in this keystore."""


class MaterialNotFoundError(KeystoreError):
    """The key is there and has no material of that id."""


class UnknownMaterialError(KeyNotFoundError):
    """The key material that a blob names is not in this region."""


class KeyDisabledError(KeystoreError):
    """The key is disabled."""


class KeyPendingDeletionError(KeystoreError):
    """The key is scheduled for deletion."""


class KeyStateError(KeystoreError):
    """The key's state does not allow this action."""


class RotationPendingError(KeyStateError):
    """Imported material waits for rotation already."""


class NothingToRotateToError(KeyStateError):
    """No imported material waits for rotation."""


class KeyPendingImportError(KeyStateError):
    """The key has no material: it is yet to be imported, again if it has expired."""


class KeyNotPendingDeletionError(KeyStateError):
    """The key's deletion cannot be cancelled: it is not scheduled."""


class KeyInUseError(KeyStateError):
    """A known tree would be lost with the key."""


class AliasNotFoundError(KeystoreError):
    """No such alias in this region."""


class AlreadyExistsError(KeystoreError):
    """The region, key or alias exists already."""


class KeyExistsError(AlreadyExistsError):
    """The region has a replica of the key already."""


class InvalidAliasError(KeystoreError):
    """The alias name is malformed or reserved."""


class ReservedAliasError(InvalidAliasError):
    """The alias name is under ``alias/aws/``, which is for managed keys."""


class TagError(KeystoreError):
    """A tag is malformed, reserved, named twice, or one too many."""


class ReservedTagError(TagError):
    """The tag key begins with ``aws:``, which is AWS's."""


class DuplicateTagError(TagError):
    """A tag key is named twice in one request."""


class TooManyTagsError(TagError):
    """The key would have more tags than a key can have."""


class InvalidCiphertextError(KeystoreError):
    """The blob is foreign, damaged, or its encryption context does not match."""


class InvalidKeyUsageError(KeystoreError):
    """The key is for something else: encryption, or MACs."""


class WrongAlgorithmError(InvalidKeyUsageError):
    """The key is for another algorithm."""


class InvalidMacError(KeystoreError):
    """The MAC is not that of this message under this key."""


class IncorrectKeyError(KeystoreError):
    """The blob was encrypted under another key than the one named."""


class AccessDeniedError(KeystoreError):
    """A policy refuses the principal."""


class MalformedPolicyError(KeystoreError):
    """A policy does not parse, names something unknown, or would lock its author out."""


class InvalidPrincipalError(MalformedPolicyError):
    """A policy names a principal that there is not."""


class LockoutError(MalformedPolicyError):
    """Under the new policy its author could not change it again."""


class PrincipalNotFoundError(KeystoreError):
    """No such user or access key."""


class InvalidArnError(KeystoreError):
    """An ARN does not name what it should: a principal that exists."""


class GrantNotFoundError(KeystoreError):
    """The key has no grant of that id."""


class InvalidGrantIdError(KeystoreError):
    """No grant can have that id."""


class InvalidGrantTokenError(KeystoreError):
    """The token is that of no grant."""


class IncorrectKeyMaterialError(KeystoreError):
    """Imported key material is not what the key takes: another size, or not the same as before."""


class InvalidImportTokenError(KeystoreError):
    """The import token is not one of this key."""


class ExpiredImportTokenError(KeystoreError):
    """The import token is older than a day."""


class MetadataTamperedError(KeystoreError):
    """A metadata row is not authentic."""


class MetadataUnavailableError(KeystoreError):
    """The metadata store is missing, locked by another process, or unreadable."""


class AuditUnavailableError(KeystoreError):
    """The audit log cannot be written, so keys may not be used."""


class AuditBrokenError(KeystoreError):
    """The audit log was edited, cut or lost records."""


# --- HSM ----------------------------------------------------------------------------------------
class HsmError(KmsfsError):
    """Base of failures of the PKCS#11 side."""


class ModuleInvalidError(HsmError):
    """The module's path does not exist or is no PKCS#11 module."""


class TokenNotFoundError(HsmError):
    """The token is not there, or went away."""


class PinUnavailableError(HsmError):
    """The PIN file is missing, unreadable, empty or too open."""


class PinIncorrectError(HsmError):
    """The token refused the PIN."""


class HsmUnavailableError(HsmError):
    """The module failed for a reason that may pass; try again."""


class HsmTimeoutError(HsmError):
    """The module did not answer in time."""


class InsecureKeyError(HsmError):
    """A key in the token is extractable or not sensitive."""


# --- trees and mounts ---------------------------------------------------------------------------
class TreeError(KmsfsError):
    """Base of refusals about a tree or a mount as a whole."""


class NotATreeError(TreeError):
    """The directory has no superblock."""


class TreeExistsError(TreeError):
    """The directory is not empty or is a tree already."""


class TreeBusyError(TreeError):
    """The tree is mounted elsewhere."""


class MountpointError(TreeError):
    """The mount point is missing, not empty, already mounted, or overlaps the tree."""


class MountFailedError(TreeError):
    """FUSE refused the mount."""


class NotMountedError(TreeError):
    """The path is not a kmsfs mount."""


class MountBusyError(TreeError):
    """The mount is in use and cannot be unmounted."""


class IncompleteError(TreeError):
    """Work on a tree was done as far as it could be; what is left was listed."""


class StoppedError(TreeError):
    """Long work was paused or cancelled, as somebody asked."""


class AddressUnavailableError(KmsfsError):
    """The server cannot listen on the address that it was given."""


class SchedulerUnavailableError(KmsfsError):
    """The cluster that was to help does not answer, or gave up."""


class UsageError(KmsfsError):
    """The command line asks for something contradictory."""

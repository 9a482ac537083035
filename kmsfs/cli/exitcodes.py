"""What an exit code of kmsfs means: one total table over the error hierarchy.

docs/cli.md shows the same table and a test compares the two. Numbers are never reused.
"""

from enum import IntEnum
from typing import Final

from kmsfs import errors


class ExitCode(IntEnum):
    """Exit codes by name; the name as a person reads it is ``label``."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    ALREADY_EXISTS = 4
    KEY_DISABLED = 5
    KEY_PENDING_DELETION = 6
    KEY_STATE = 7
    ACCESS_DENIED = 8
    LIMIT_EXCEEDED = 9
    INVALID_CIPHERTEXT = 10
    INCORRECT_KEY = 11
    METADATA_TAMPERED = 12
    METADATA_UNAVAILABLE = 13
    AUDIT_UNAVAILABLE = 14
    AUDIT_BROKEN = 15
    UNSUPPORTED = 16
    KEY_USAGE = 17
    INVALID_MAC = 18
    KEY_MATERIAL = 19
    MODULE_INVALID = 20
    TOKEN_NOT_FOUND = 21
    PIN_UNAVAILABLE = 22
    PIN_INCORRECT = 23
    HSM_UNAVAILABLE = 24
    HSM_TIMEOUT = 25
    INSECURE_KEY = 26
    NOT_A_TREE = 30
    TREE_EXISTS = 31
    TREE_BUSY = 32
    MOUNT_POINT = 33
    MOUNT_FAILED = 34
    NOT_MOUNTED = 35
    MOUNT_BUSY = 36
    INCOMPLETE = 37
    STOPPED = 38
    FORMAT_INVALID = 40
    FORMAT_UNSUPPORTED = 41
    INTEGRITY = 42
    UNHEALTHY = 50
    ADDRESS_UNAVAILABLE = 51
    SCHEDULER_UNAVAILABLE = 52
    INTERRUPTED = 130
    BROKEN_PIPE = 141

    @property
    def label(self) -> str:
        """The name that docs/cli.md uses."""
        return self.name.lower().replace("_", "-")


EXIT_CODES: Final[dict[type[errors.KmsfsError], ExitCode]] = {
    errors.FormatError: ExitCode.FORMAT_INVALID,
    errors.UnsupportedFormatError: ExitCode.FORMAT_UNSUPPORTED,
    errors.IntegrityError: ExitCode.INTEGRITY,
    errors.KeyExhaustedError: ExitCode.LIMIT_EXCEEDED,
    errors.InvalidRequestError: ExitCode.USAGE,
    errors.UnsupportedOperationError: ExitCode.UNSUPPORTED,
    errors.WrongOriginError: ExitCode.UNSUPPORTED,
    errors.NeverRotatesError: ExitCode.UNSUPPORTED,
    errors.NotPrimaryError: ExitCode.UNSUPPORTED,
    errors.LimitExceededError: ExitCode.LIMIT_EXCEEDED,
    errors.AliasesUsedUpError: ExitCode.LIMIT_EXCEEDED,
    errors.RotationsUsedUpError: ExitCode.LIMIT_EXCEEDED,
    errors.RegionNotFoundError: ExitCode.NOT_FOUND,
    errors.KeyNotFoundError: ExitCode.NOT_FOUND,
    errors.MaterialNotFoundError: ExitCode.NOT_FOUND,
    errors.UnknownMaterialError: ExitCode.NOT_FOUND,
    errors.KeyDisabledError: ExitCode.KEY_DISABLED,
    errors.KeyPendingDeletionError: ExitCode.KEY_PENDING_DELETION,
    errors.KeyStateError: ExitCode.KEY_STATE,
    errors.RotationPendingError: ExitCode.KEY_STATE,
    errors.NothingToRotateToError: ExitCode.KEY_STATE,
    errors.KeyPendingImportError: ExitCode.KEY_STATE,
    errors.KeyNotPendingDeletionError: ExitCode.KEY_STATE,
    errors.KeyInUseError: ExitCode.KEY_STATE,
    errors.AliasNotFoundError: ExitCode.NOT_FOUND,
    errors.AlreadyExistsError: ExitCode.ALREADY_EXISTS,
    errors.KeyExistsError: ExitCode.ALREADY_EXISTS,
    errors.InvalidAliasError: ExitCode.USAGE,
    errors.ReservedAliasError: ExitCode.USAGE,
    errors.TagError: ExitCode.USAGE,
    errors.ReservedTagError: ExitCode.USAGE,
    errors.DuplicateTagError: ExitCode.USAGE,
    errors.TooManyTagsError: ExitCode.USAGE,
    errors.MalformedPolicyError: ExitCode.USAGE,
    errors.InvalidPrincipalError: ExitCode.USAGE,
    errors.LockoutError: ExitCode.USAGE,
    errors.InvalidCiphertextError: ExitCode.INVALID_CIPHERTEXT,
    errors.InvalidKeyUsageError: ExitCode.KEY_USAGE,
    errors.WrongAlgorithmError: ExitCode.KEY_USAGE,
    errors.InvalidMacError: ExitCode.INVALID_MAC,
    errors.IncorrectKeyError: ExitCode.INCORRECT_KEY,
    errors.AccessDeniedError: ExitCode.ACCESS_DENIED,
    errors.PrincipalNotFoundError: ExitCode.NOT_FOUND,
    errors.InvalidArnError: ExitCode.USAGE,
    errors.GrantNotFoundError: ExitCode.NOT_FOUND,
    errors.InvalidGrantIdError: ExitCode.USAGE,
    errors.InvalidGrantTokenError: ExitCode.NOT_FOUND,
    errors.IncorrectKeyMaterialError: ExitCode.KEY_MATERIAL,
    errors.InvalidImportTokenError: ExitCode.KEY_MATERIAL,
    errors.ExpiredImportTokenError: ExitCode.KEY_MATERIAL,
    errors.MetadataTamperedError: ExitCode.METADATA_TAMPERED,
    errors.MetadataUnavailableError: ExitCode.METADATA_UNAVAILABLE,
    errors.AuditUnavailableError: ExitCode.AUDIT_UNAVAILABLE,
    errors.AuditBrokenError: ExitCode.AUDIT_BROKEN,
    errors.ModuleInvalidError: ExitCode.MODULE_INVALID,
    errors.TokenNotFoundError: ExitCode.TOKEN_NOT_FOUND,
    errors.PinUnavailableError: ExitCode.PIN_UNAVAILABLE,
    errors.PinIncorrectError: ExitCode.PIN_INCORRECT,
    errors.HsmUnavailableError: ExitCode.HSM_UNAVAILABLE,
    errors.HsmTimeoutError: ExitCode.HSM_TIMEOUT,
    errors.InsecureKeyError: ExitCode.INSECURE_KEY,
    errors.NotATreeError: ExitCode.NOT_A_TREE,
    errors.TreeExistsError: ExitCode.TREE_EXISTS,
    errors.TreeBusyError: ExitCode.TREE_BUSY,
    errors.MountpointError: ExitCode.MOUNT_POINT,
    errors.MountFailedError: ExitCode.MOUNT_FAILED,
    errors.NotMountedError: ExitCode.NOT_MOUNTED,
    errors.MountBusyError: ExitCode.MOUNT_BUSY,
    errors.IncompleteError: ExitCode.INCOMPLETE,
    errors.StoppedError: ExitCode.STOPPED,
    errors.AddressUnavailableError: ExitCode.ADDRESS_UNAVAILABLE,
    errors.SchedulerUnavailableError: ExitCode.SCHEDULER_UNAVAILABLE,
    errors.UsageError: ExitCode.USAGE,
}


def exit_code(error: errors.KmsfsError) -> ExitCode:
    """Return the code for an error; a base class that someone raised counts as a plain failure."""
    return EXIT_CODES.get(type(error), ExitCode.FAILED)

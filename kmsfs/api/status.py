"""Errors of kmsfs in AWS's names, statuses and words: one total table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kmsfs import errors
from kmsfs.api.refusal import Refusal
from kmsfs.keystore.aliases import MAX_ALIASES
from kmsfs.keystore.tags import ALLOW_DELETION


@dataclass(frozen=True, slots=True)
class WireError:
    """One row: AWS's name, the HTTP status, and AWS's message."""

    code: str
    status: int = 400
    #: ``{resource}`` is the key or alias that the request named, ``{text}`` the error's own words, and
    #: ``{sentence}`` the same words as AWS writes them; the other names are those of ``UNTOLD``.
    message: str = "{text}"


#: What a message may tell beside that: of the request, and of the key that it is about.
UNTOLD: Final[Mapping[str, str]] = {"action": "", "algorithm": "", "usage": "", "spec": "", "origin": ""}

_INTERNAL: Final = WireError(
    "KMSInternalException", 500, "The request was rejected because of an internal failure."
)
_KEY_UNAVAILABLE: Final = WireError("KeyUnavailableException", 500, "The key's token is not available.")

#: A class without a row of its own has that of its nearest base. What must not reach a client (that metadata
#: were tampered with, a path, the state of a token) is said in the server's log and stands here without words.
WIRE_ERRORS: Final[dict[type[errors.KmsfsError], WireError]] = {
    errors.KmsfsError: _INTERNAL,
    errors.InvalidRequestError: WireError("ValidationException"),
    errors.UnsupportedOperationError: WireError("UnsupportedOperationException"),
    errors.WrongOriginError: WireError(
        "UnsupportedOperationException",
        message="{resource} origin is {origin} which is not valid for this operation.",
    ),
    errors.NeverRotatesError: WireError("UnsupportedOperationException", message=""),
    errors.NotPrimaryError: WireError(
        "UnsupportedOperationException", message="{resource} is not a multi-Region primary key."
    ),
    errors.LimitExceededError: WireError("LimitExceededException"),
    errors.AliasesUsedUpError: WireError(
        "LimitExceededException",
        message=f"Aliases per key quota for this account in this region is {MAX_ALIASES}, "
        f"current usage is {MAX_ALIASES}.",
    ),
    errors.RotationsUsedUpError: WireError(
        "LimitExceededException",
        message="The on-demand rotations limit has been reached for the given keyId. "
        "No more on-demand rotations can be performed for this key: {resource}",
    ),
    errors.RegionNotFoundError: WireError("NotFoundException"),
    errors.KeyNotFoundError: WireError("NotFoundException", message="Key '{resource}' does not exist"),
    errors.MaterialNotFoundError: WireError("NotFoundException"),
    errors.UnknownMaterialError: WireError(
        "AccessDeniedException",
        message="The ciphertext refers to a customer master key that does not exist, does not exist in this "
        "region, or you are not allowed to access.",
    ),
    errors.KeyDisabledError: WireError("DisabledException", message="{resource} is disabled."),
    errors.KeyPendingDeletionError: WireError(
        "KMSInvalidStateException", message="{resource} is pending deletion."
    ),
    errors.KeyStateError: WireError("KMSInvalidStateException"),
    errors.RotationPendingError: WireError("KMSInvalidStateException", message="{sentence}"),
    errors.NothingToRotateToError: WireError(
        "KMSInvalidStateException",
        message="No available key material pending rotation for the key: {resource}.",
    ),
    errors.KeyPendingImportError: WireError(
        "KMSInvalidStateException", message="{resource} is pending import."
    ),
    errors.KeyNotPendingDeletionError: WireError(
        "KMSInvalidStateException", message="{resource} is not pending deletion."
    ),
    errors.KeyInUseError: WireError(
        "KMSInvalidStateException",
        message="{resource} is in use by file system trees, which would be lost. Tag the key "
        f"{ALLOW_DELETION} = yes to delete it all the same.",
    ),
    errors.KeyExhaustedError: WireError("LimitExceededException"),
    errors.AliasNotFoundError: WireError("NotFoundException", message="Alias {resource} is not found."),
    errors.AlreadyExistsError: WireError(
        "AlreadyExistsException", message="An alias with the name {resource} already exists"
    ),
    errors.KeyExistsError: WireError("AlreadyExistsException"),
    errors.InvalidAliasError: WireError("InvalidAliasNameException"),
    errors.ReservedAliasError: WireError("NotAuthorizedException", message=""),
    errors.TagError: WireError("TagException"),
    errors.ReservedTagError: WireError("TagException", message="Tags beginning with aws: are reserved"),
    errors.DuplicateTagError: WireError("TagException", message="Duplicate tag keys"),
    errors.TooManyTagsError: WireError("TagException", message="Too many tags"),
    errors.InvalidCiphertextError: WireError("InvalidCiphertextException", message=""),
    errors.InvalidKeyUsageError: WireError(
        "InvalidKeyUsageException",
        message="{resource} key usage is {usage} which is not valid for {action}.",
    ),
    errors.WrongAlgorithmError: WireError(
        "InvalidKeyUsageException", message="Algorithm {algorithm} is incompatible with key spec {spec}."
    ),
    errors.InvalidMacError: WireError("KMSInvalidMacException", message=""),
    errors.IncorrectKeyError: WireError(
        "IncorrectKeyException",
        message="The key ID in the request does not identify a CMK that can perform this operation.",
    ),
    errors.AccessDeniedError: WireError("AccessDeniedException"),
    errors.MalformedPolicyError: WireError("MalformedPolicyDocumentException"),
    errors.InvalidPrincipalError: WireError(
        "MalformedPolicyDocumentException",
        message="Policy contains a statement with one or more invalid principals.",
    ),
    errors.LockoutError: WireError("MalformedPolicyDocumentException", message="{sentence}"),
    errors.PrincipalNotFoundError: WireError("NotFoundException"),
    errors.InvalidArnError: WireError("InvalidArnException"),
    errors.GrantNotFoundError: WireError("NotFoundException"),
    errors.InvalidGrantIdError: WireError("InvalidGrantIdException"),
    errors.InvalidGrantTokenError: WireError("InvalidGrantTokenException"),
    errors.IncorrectKeyMaterialError: WireError("IncorrectKeyMaterialException"),
    errors.InvalidImportTokenError: WireError("InvalidImportTokenException"),
    errors.ExpiredImportTokenError: WireError("ExpiredImportTokenException"),
    errors.MetadataUnavailableError: WireError("DependencyTimeoutException", 503, ""),
    errors.HsmError: _KEY_UNAVAILABLE,
    errors.HsmTimeoutError: WireError("DependencyTimeoutException", 503, ""),
    errors.InsecureKeyError: _INTERNAL,
}


def wire_error(error: errors.KmsfsError) -> WireError:
    """Return the row of an error."""
    return next(WIRE_ERRORS[kind] for kind in type(error).__mro__ if kind in WIRE_ERRORS)


def refusal_of(error: errors.KmsfsError, resource: str, told: Mapping[str, str] = UNTOLD) -> Refusal:
    """Return the refusal that a client gets for an error about the key or alias it named."""
    row, text = wire_error(error), str(error)
    sentence = f"{text[:1].upper()}{text[1:]}."
    message = row.message.format_map(
        {**UNTOLD, **told, "resource": resource, "text": text, "sentence": sentence}
    )
    return Refusal(row.code, message, status=row.status)

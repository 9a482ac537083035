"""What AWS refuses beyond its service model: members that exclude, need or narrow one another.

A table: each action's rules run in order after all its members have been read.
"""

from collections.abc import Callable, Mapping
from typing import Final

from kmsfs.api.refusal import Refusal
from kmsfs.api.shapes import null_value, violation

Parameters = Mapping[str, object]
Rule = Callable[[Parameters, list[str]], None]

_ENCRYPT: Final = "ENCRYPT_DECRYPT"
_SIGN: Final = "SIGN_VERIFY"
_AGREE: Final = "KEY_AGREEMENT"
#: What keys of each spec are for at AWS, whether or not such keys are made here.
USAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "SYMMETRIC_DEFAULT": (_ENCRYPT,),
    **dict.fromkeys(("HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512"), ("GENERATE_VERIFY_MAC",)),
    **dict.fromkeys(("RSA_2048", "RSA_3072", "RSA_4096"), (_ENCRYPT, _SIGN)),
    **dict.fromkeys(("ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"), (_SIGN, _AGREE)),
    **dict.fromkeys(("ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"), (_SIGN,)),
    **dict.fromkeys(("ML_DSA_44", "ML_DSA_65", "ML_DSA_87"), (_SIGN,)),
    **dict.fromkeys(("ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"), ("ENCAPSULATE_DECAPSULATE",)),
    "SM2": (_ENCRYPT, _SIGN, _AGREE),
}


def check_rules(action: str, parameters: Parameters, problems: list[str]) -> None:
    """Run an action's rules; raise Refusal, or append violated constraints to ``problems``."""
    for rule in RULES.get(action, ()):
        rule(parameters, problems)


def _data_key_length(parameters: Parameters, problems: list[str]) -> None:
    if ("KeySpec" in parameters) == ("NumberOfBytes" in parameters):
        raise Refusal("ValidationException", "Please specify either number of bytes or key spec.")


def _deletion_window(parameters: Parameters, problems: list[str]) -> None:
    # The model says 1 to 365; the service says 7 to 30.
    days = parameters.get("PendingWindowInDays", 30)
    assert isinstance(days, int)  # noqa: S101 - the shape has seen to it
    for broken, limit in ((days < 7, "greater than or equal to 7"), (days > 30, "less than or equal to 30")):
        if broken:
            constraint = f"Member must have value {limit}"
            problems.append(violation(f" '{days}'", "pendingWindowInDays", constraint))


def _ciphertext_given(parameters: Parameters, problems: list[str]) -> None:
    # Optional in the model since a dry run may go without; kmsfs does not offer that dry run.
    if "DryRunModifiers" in parameters:
        raise Refusal("UnsupportedOperationException", "DryRunModifiers is not supported.")
    if "CiphertextBlob" not in parameters:
        problems.append(null_value("ciphertextBlob"))


def _without_enclave(parameters: Parameters, problems: list[str]) -> None:
    if "Recipient" in parameters:
        raise Refusal(
            "UnsupportedOperationException", "Recipient is not supported: there are no enclaves here."
        )


def _own_key_store(parameters: Parameters, problems: list[str]) -> None:
    for name in ("CustomKeyStoreId", "XksKeyId"):
        if name in parameters:
            raise Refusal("UnsupportedOperationException", f"{name} is not supported.")


def _one_key_spec(parameters: Parameters, problems: list[str]) -> None:
    if "KeySpec" in parameters and "CustomerMasterKeySpec" in parameters:
        raise Refusal(
            "ValidationException",
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
            "CustomerMasterKeySpec is deprecated.",
        )


def _usage_of_the_spec(parameters: Parameters, problems: list[str]) -> None:
    spec = str(parameters.get("KeySpec", parameters.get("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT")))
    if "KeyUsage" not in parameters and spec != "SYMMETRIC_DEFAULT":
        raise Refusal(
            "ValidationException",
            "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
        )
    usage = parameters.get("KeyUsage", "ENCRYPT_DECRYPT")
    if usage not in USAGES[spec]:
        raise Refusal("ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {spec}")


def _grantee(parameters: Parameters, problems: list[str]) -> None:
    _no_service_principals(parameters, problems)
    if "GranteePrincipal" not in parameters:
        problems.append(null_value("granteePrincipal"))


def _known_constraints(parameters: Parameters, problems: list[str]) -> None:
    # A constraint that were ignored would widen the grant.
    constraints = parameters.get("Constraints")
    if isinstance(constraints, dict) and "SourceArn" in constraints:
        raise Refusal("UnsupportedOperationException", "The grant constraint SourceArn is not supported.")


def _no_service_principals(parameters: Parameters, problems: list[str]) -> None:
    for name in ("GranteeServicePrincipal", "RetiringServicePrincipal"):
        if name in parameters:
            raise Refusal("UnsupportedOperationException", f"{name} is not supported.")


def _expiration(parameters: Parameters, problems: list[str]) -> None:
    expires = parameters.get("ExpirationModel", "KEY_MATERIAL_EXPIRES") == "KEY_MATERIAL_EXPIRES"
    if expires and "ValidTo" not in parameters:
        raise Refusal(
            "ValidationException", "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"
        )
    if not expires and "ValidTo" in parameters:
        raise Refusal(
            "ValidationException",
            "Please specify ValidTo only if the ExpirationModel is KEY_MATERIAL_EXPIRES.",
        )


def _known_by_id(parameters: Parameters, problems: list[str]) -> None:
    if "KeyMaterialId" in parameters and parameters.get("ImportType") == "NEW_KEY_MATERIAL":
        raise Refusal("ValidationException", "You cannot specify KeyMaterialId for NEW_KEY_MATERIAL.")


def _retiring_principal(parameters: Parameters, problems: list[str]) -> None:
    _no_service_principals(parameters, problems)
    if "RetiringPrincipal" not in parameters:
        problems.append(null_value("retiringPrincipal"))


def _one_grant(parameters: Parameters, problems: list[str]) -> None:
    by_token = "GrantToken" in parameters
    by_id = "GrantId" in parameters and "KeyId" in parameters
    if by_token == by_id or (by_token and ("GrantId" in parameters or "KeyId" in parameters)):
        raise Refusal(
            "ValidationException", "Please specify either a grant token or a key ARN and a grant ID."
        )


RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "CreateGrant": (_grantee, _known_constraints),
    "CreateKey": (_own_key_store, _one_key_spec, _usage_of_the_spec),
    "Decrypt": (_without_enclave, _ciphertext_given),
    "GenerateDataKey": (_without_enclave, _data_key_length),
    "GenerateDataKeyWithoutPlaintext": (_data_key_length,),
    "GenerateRandom": (_own_key_store, _without_enclave),
    "ImportKeyMaterial": (_expiration, _known_by_id),
    "ListGrants": (_no_service_principals,),
    "ListRetirableGrants": (_retiring_principal,),
    "ReEncrypt": (_ciphertext_given,),
    "RetireGrant": (_one_grant,),
    "ScheduleKeyDeletion": (_deletion_window,),
}

"""The actions that kmsfs answers, each with its input.

A table: a test compares every row with AWS's service model.
"""

from typing import Final

from kmsfs.api import model
from kmsfs.api.shapes import Structure

ACTIONS: Final[dict[str, Structure]] = {
    "CreateKey": Structure(
        {
            "Policy": model.PolicyType,
            "Description": model.DescriptionType,
            "KeyUsage": model.KeyUsageType,
            "CustomerMasterKeySpec": model.CustomerMasterKeySpec,
            "KeySpec": model.KeySpec,
            "Origin": model.OriginType,
            "CustomKeyStoreId": model.CustomKeyStoreIdType,
            "BypassPolicyLockoutSafetyCheck": model.BooleanType,
            "Tags": model.TagList,
            "MultiRegion": model.NullableBooleanType,
            "XksKeyId": model.XksKeyIdType,
        }
    ),
    "DescribeKey": Structure(
        {"KeyId": model.KeyIdType, "GrantTokens": model.GrantTokenList}, required=("KeyId",)
    ),
    "ListKeys": Structure(
        {"Limit": model.LimitType, "Marker": model.MarkerType, "ResourceOwners": model.ResourceOwnersList}
    ),
    "UpdateKeyDescription": Structure(
        {"KeyId": model.KeyIdType, "Description": model.DescriptionType}, required=("KeyId", "Description")
    ),
    "EnableKey": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "DisableKey": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "ScheduleKeyDeletion": Structure(
        {"KeyId": model.KeyIdType, "PendingWindowInDays": model.PendingWindowInDaysType}, required=("KeyId",)
    ),
    "CancelKeyDeletion": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "CreateAlias": Structure(
        {"AliasName": model.AliasNameType, "TargetKeyId": model.KeyIdType},
        required=("AliasName", "TargetKeyId"),
    ),
    "UpdateAlias": Structure(
        {"AliasName": model.AliasNameType, "TargetKeyId": model.KeyIdType},
        required=("AliasName", "TargetKeyId"),
    ),
    "DeleteAlias": Structure({"AliasName": model.AliasNameType}, required=("AliasName",)),
    "ListAliases": Structure(
        {"KeyId": model.KeyIdType, "Limit": model.LimitType, "Marker": model.MarkerType}
    ),
    "Encrypt": Structure(
        {
            "KeyId": model.KeyIdType,
            "Plaintext": model.PlaintextType,
            "EncryptionContext": model.EncryptionContextType,
            "GrantTokens": model.GrantTokenList,
            "EncryptionAlgorithm": model.EncryptionAlgorithmSpec,
            "DryRun": model.NullableBooleanType,
        },
        required=("KeyId", "Plaintext"),
    ),
    "Decrypt": Structure(
        {
            "CiphertextBlob": model.CiphertextType,
            "EncryptionContext": model.EncryptionContextType,
            "GrantTokens": model.GrantTokenList,
            "KeyId": model.KeyIdType,
            "EncryptionAlgorithm": model.EncryptionAlgorithmSpec,
            "Recipient": model.RecipientInfo,
            "DryRun": model.NullableBooleanType,
            "DryRunModifiers": model.DryRunModifierList,
        }
    ),
    "ReEncrypt": Structure(
        {
            "CiphertextBlob": model.CiphertextType,
            "SourceEncryptionContext": model.EncryptionContextType,
            "SourceKeyId": model.KeyIdType,
            "DestinationKeyId": model.KeyIdType,
            "DestinationEncryptionContext": model.EncryptionContextType,
            "SourceEncryptionAlgorithm": model.EncryptionAlgorithmSpec,
            "DestinationEncryptionAlgorithm": model.EncryptionAlgorithmSpec,
            "GrantTokens": model.GrantTokenList,
            "DryRun": model.NullableBooleanType,
            "DryRunModifiers": model.DryRunModifierList,
        },
        required=("DestinationKeyId",),
    ),
    "GenerateDataKey": Structure(
        {
            "KeyId": model.KeyIdType,
            "EncryptionContext": model.EncryptionContextType,
            "NumberOfBytes": model.NumberOfBytesType,
            "KeySpec": model.DataKeySpec,
            "GrantTokens": model.GrantTokenList,
            "Recipient": model.RecipientInfo,
            "DryRun": model.NullableBooleanType,
        },
        required=("KeyId",),
    ),
    "GenerateDataKeyWithoutPlaintext": Structure(
        {
            "KeyId": model.KeyIdType,
            "EncryptionContext": model.EncryptionContextType,
            "KeySpec": model.DataKeySpec,
            "NumberOfBytes": model.NumberOfBytesType,
            "GrantTokens": model.GrantTokenList,
            "DryRun": model.NullableBooleanType,
        },
        required=("KeyId",),
    ),
    "GenerateRandom": Structure(
        {
            "NumberOfBytes": model.NumberOfBytesType,
            "CustomKeyStoreId": model.CustomKeyStoreIdType,
            "Recipient": model.RecipientInfo,
        }
    ),
    "TagResource": Structure({"KeyId": model.KeyIdType, "Tags": model.TagList}, required=("KeyId", "Tags")),
    "UntagResource": Structure(
        {"KeyId": model.KeyIdType, "TagKeys": model.TagKeyList}, required=("KeyId", "TagKeys")
    ),
    "ListResourceTags": Structure(
        {"KeyId": model.KeyIdType, "Limit": model.LimitType, "Marker": model.MarkerType}, required=("KeyId",)
    ),
    "PutKeyPolicy": Structure(
        {
            "KeyId": model.KeyIdType,
            "PolicyName": model.PolicyNameType,
            "Policy": model.PolicyType,
            "BypassPolicyLockoutSafetyCheck": model.BooleanType,
        },
        required=("KeyId", "Policy"),
    ),
    "GetKeyPolicy": Structure(
        {"KeyId": model.KeyIdType, "PolicyName": model.PolicyNameType}, required=("KeyId",)
    ),
    "ListKeyPolicies": Structure(
        {"KeyId": model.KeyIdType, "Limit": model.LimitType, "Marker": model.MarkerType}, required=("KeyId",)
    ),
    "CreateGrant": Structure(
        {
            "KeyId": model.KeyIdType,
            "GranteePrincipal": model.PrincipalIdType,
            "RetiringPrincipal": model.PrincipalIdType,
            "Operations": model.GrantOperationList,
            "Constraints": model.GrantConstraints,
            "GrantTokens": model.GrantTokenList,
            "Name": model.GrantNameType,
            "DryRun": model.NullableBooleanType,
            "GranteeServicePrincipal": model.ServicePrincipalType,
            "RetiringServicePrincipal": model.ServicePrincipalType,
        },
        required=("KeyId", "Operations"),
    ),
    "ListGrants": Structure(
        {
            "Limit": model.LimitType,
            "Marker": model.MarkerType,
            "KeyId": model.KeyIdType,
            "GrantId": model.GrantIdType,
            "GranteePrincipal": model.PrincipalIdType,
            "GranteeServicePrincipal": model.ServicePrincipalType,
        },
        required=("KeyId",),
    ),
    "ListRetirableGrants": Structure(
        {
            "Limit": model.LimitType,
            "Marker": model.MarkerType,
            "RetiringPrincipal": model.PrincipalIdType,
            "RetiringServicePrincipal": model.ServicePrincipalType,
        }
    ),
    "RetireGrant": Structure(
        {
            "GrantToken": model.GrantTokenType,
            "KeyId": model.KeyIdType,
            "GrantId": model.GrantIdType,
            "DryRun": model.NullableBooleanType,
        }
    ),
    "RevokeGrant": Structure(
        {"KeyId": model.KeyIdType, "GrantId": model.GrantIdType, "DryRun": model.NullableBooleanType},
        required=("KeyId", "GrantId"),
    ),
    "EnableKeyRotation": Structure(
        {"KeyId": model.KeyIdType, "RotationPeriodInDays": model.RotationPeriodInDaysType},
        required=("KeyId",),
    ),
    "DisableKeyRotation": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "GetKeyRotationStatus": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "RotateKeyOnDemand": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
    "ListKeyRotations": Structure(
        {
            "KeyId": model.KeyIdType,
            "IncludeKeyMaterial": model.IncludeKeyMaterial,
            "Limit": model.LimitType,
            "Marker": model.MarkerType,
        },
        required=("KeyId",),
    ),
    "GetParametersForImport": Structure(
        {
            "KeyId": model.KeyIdType,
            "WrappingAlgorithm": model.AlgorithmSpec,
            "WrappingKeySpec": model.WrappingKeySpec,
        },
        required=("KeyId", "WrappingAlgorithm", "WrappingKeySpec"),
    ),
    "ImportKeyMaterial": Structure(
        {
            "KeyId": model.KeyIdType,
            "ImportToken": model.CiphertextType,
            "EncryptedKeyMaterial": model.CiphertextType,
            "ValidTo": model.DateType,
            "ExpirationModel": model.ExpirationModelType,
            "ImportType": model.ImportType,
            "KeyMaterialDescription": model.KeyMaterialDescriptionType,
            "KeyMaterialId": model.BackingKeyIdType,
        },
        required=("KeyId", "ImportToken", "EncryptedKeyMaterial"),
    ),
    "DeleteImportedKeyMaterial": Structure(
        {"KeyId": model.KeyIdType, "KeyMaterialId": model.BackingKeyIdType}, required=("KeyId",)
    ),
    "ReplicateKey": Structure(
        {
            "KeyId": model.KeyIdType,
            "ReplicaRegion": model.RegionType,
            "Policy": model.PolicyType,
            "BypassPolicyLockoutSafetyCheck": model.BooleanType,
            "Description": model.DescriptionType,
            "Tags": model.TagList,
        },
        required=("KeyId", "ReplicaRegion"),
    ),
    "UpdatePrimaryRegion": Structure(
        {"KeyId": model.KeyIdType, "PrimaryRegion": model.RegionType}, required=("KeyId", "PrimaryRegion")
    ),
    "GenerateMac": Structure(
        {
            "Message": model.PlaintextType,
            "KeyId": model.KeyIdType,
            "MacAlgorithm": model.MacAlgorithmSpec,
            "GrantTokens": model.GrantTokenList,
            "DryRun": model.NullableBooleanType,
        },
        required=("Message", "KeyId", "MacAlgorithm"),
    ),
    "VerifyMac": Structure(
        {
            "Message": model.PlaintextType,
            "KeyId": model.KeyIdType,
            "MacAlgorithm": model.MacAlgorithmSpec,
            "Mac": model.CiphertextType,
            "GrantTokens": model.GrantTokenList,
            "DryRun": model.NullableBooleanType,
        },
        required=("Message", "KeyId", "MacAlgorithm", "Mac"),
    ),
    "GetKeyLastUsage": Structure({"KeyId": model.KeyIdType}, required=("KeyId",)),
}

#: Actions of AWS KMS that kmsfs knows and does not do: asymmetric keys and other key stores.
UNSUPPORTED: Final = frozenset(
    {
        "ConnectCustomKeyStore",
        "CreateCustomKeyStore",
        "Decapsulate",
        "DeleteCustomKeyStore",
        "DeriveSharedSecret",
        "DescribeCustomKeyStores",
        "DisconnectCustomKeyStore",
        "Encapsulate",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GetPublicKey",
        "Sign",
        "UpdateCustomKeyStore",
        "Verify",
    }
)

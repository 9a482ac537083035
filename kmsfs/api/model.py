"""The values that the actions of AWS KMS take, under the names of AWS's service model.

A table: a test compares every row with the model. Plaintexts are limited to 4,096 bytes here.
"""

from typing import Final

from kmsfs.api.shapes import Blob, Boolean, Integer, ListOf, MapOf, Structure, Text, Timestamp

PolicyType: Final = Text(minimum=1, maximum=131072, pattern=r"[\u0009\u000A\u000D\u0020-\u00FF]+")
DescriptionType: Final = Text(minimum=0, maximum=8192)
KeyUsageType: Final = Text(
    values=(
        "SIGN_VERIFY",
        "ENCRYPT_DECRYPT",
        "GENERATE_VERIFY_MAC",
        "KEY_AGREEMENT",
        "ENCAPSULATE_DECAPSULATE",
    )
)
CustomerMasterKeySpec: Final = Text(
    values=(
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "SYMMETRIC_DEFAULT",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "SM2",
    )
)
KeySpec: Final = Text(
    values=(
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "ECC_NIST_P256",
        "ECC_NIST_P384",
        "ECC_NIST_P521",
        "ECC_SECG_P256K1",
        "SYMMETRIC_DEFAULT",
        "HMAC_224",
        "HMAC_256",
        "HMAC_384",
        "HMAC_512",
        "SM2",
        "ML_DSA_44",
        "ML_DSA_65",
        "ML_DSA_87",
        "ECC_NIST_EDWARDS25519",
        "ML_KEM_512",
        "ML_KEM_768",
        "ML_KEM_1024",
    )
)
OriginType: Final = Text(
    values=(
        "AWS_KMS",
        "EXTERNAL",
        "AWS_CLOUDHSM",
        "EXTERNAL_KEY_STORE",
    )
)
CustomKeyStoreIdType: Final = Text(minimum=1, maximum=64)
BooleanType: Final = Boolean()
TagKeyType: Final = Text(minimum=1, maximum=128)
TagValueType: Final = Text(minimum=0, maximum=256)
Tag: Final = Structure({"TagKey": TagKeyType, "TagValue": TagValueType}, required=("TagKey", "TagValue"))
TagList: Final = ListOf(Tag)
NullableBooleanType: Final = Boolean()
XksKeyIdType: Final = Text(minimum=1, maximum=128, pattern=r"^[a-zA-Z0-9-_.]+$")
KeyIdType: Final = Text(minimum=1, maximum=2048)
GrantTokenType: Final = Text(minimum=1, maximum=8192)
GrantTokenList: Final = ListOf(GrantTokenType, minimum=0, maximum=10)
LimitType: Final = Integer(minimum=1, maximum=1000)
MarkerType: Final = Text(minimum=1, maximum=1024, pattern=r"[\u0020-\u00FF]*")
ResourceOwnerType: Final = Text(
    values=(
        "SELF",
        "OTHER_ACCOUNTS_VIA_RAM",
    )
)
ResourceOwnersList: Final = ListOf(ResourceOwnerType, minimum=1, maximum=2)
PendingWindowInDaysType: Final = Integer(minimum=1, maximum=365)
AliasNameType: Final = Text(minimum=1, maximum=256, pattern=r"^[a-zA-Z0-9:/_-]+$")
PlaintextType: Final = Blob(minimum=1, maximum=4096)
EncryptionContextKey: Final = Text()
EncryptionContextValue: Final = Text()
EncryptionContextType: Final = MapOf(EncryptionContextKey, EncryptionContextValue)
EncryptionAlgorithmSpec: Final = Text(
    values=(
        "SYMMETRIC_DEFAULT",
        "RSAES_OAEP_SHA_1",
        "RSAES_OAEP_SHA_256",
        "SM2PKE",
    )
)
CiphertextType: Final = Blob(minimum=1, maximum=6144)
KeyEncryptionMechanism: Final = Text(values=("RSAES_OAEP_SHA_256",))
AttestationDocumentType: Final = Blob(minimum=1, maximum=262144)
RecipientInfo: Final = Structure(
    {"KeyEncryptionAlgorithm": KeyEncryptionMechanism, "AttestationDocument": AttestationDocumentType}
)
DryRunModifierType: Final = Text(values=("IGNORE_CIPHERTEXT",))
DryRunModifierList: Final = ListOf(DryRunModifierType)
NumberOfBytesType: Final = Integer(minimum=1, maximum=1024)
DataKeySpec: Final = Text(
    values=(
        "AES_256",
        "AES_128",
    )
)
TagKeyList: Final = ListOf(TagKeyType)
PolicyNameType: Final = Text(minimum=1, maximum=128, pattern=r"[\w]+")
PrincipalIdType: Final = Text(minimum=1, maximum=256, pattern=r"^[\w+=,.@:/-]+$")
GrantOperation: Final = Text(
    values=(
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncryptFrom",
        "ReEncryptTo",
        "Sign",
        "Verify",
        "GetPublicKey",
        "CreateGrant",
        "RetireGrant",
        "DescribeKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateMac",
        "VerifyMac",
        "DeriveSharedSecret",
        "Encapsulate",
        "Decapsulate",
    )
)
GrantOperationList: Final = ListOf(GrantOperation)
GrantConstraintSourceArnType: Final = Text(
    minimum=20, maximum=512, pattern=r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$"
)
GrantConstraints: Final = Structure(
    {
        "EncryptionContextSubset": EncryptionContextType,
        "EncryptionContextEquals": EncryptionContextType,
        "SourceArn": GrantConstraintSourceArnType,
    }
)
GrantNameType: Final = Text(minimum=1, maximum=256, pattern=r"^[a-zA-Z0-9:/_-]+$")
ServicePrincipalType: Final = Text(
    minimum=1, maximum=128, pattern=r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$"
)
GrantIdType: Final = Text(minimum=1, maximum=128)
RotationPeriodInDaysType: Final = Integer(minimum=90, maximum=2560)
IncludeKeyMaterial: Final = Text(
    values=(
        "ALL_KEY_MATERIAL",
        "ROTATIONS_ONLY",
    )
)
AlgorithmSpec: Final = Text(
    values=(
        "RSAES_PKCS1_V1_5",
        "RSAES_OAEP_SHA_1",
        "RSAES_OAEP_SHA_256",
        "RSA_AES_KEY_WRAP_SHA_1",
        "RSA_AES_KEY_WRAP_SHA_256",
        "SM2PKE",
    )
)
WrappingKeySpec: Final = Text(
    values=(
        "RSA_2048",
        "RSA_3072",
        "RSA_4096",
        "SM2",
    )
)
DateType: Final = Timestamp()
ExpirationModelType: Final = Text(
    values=(
        "KEY_MATERIAL_EXPIRES",
        "KEY_MATERIAL_DOES_NOT_EXPIRE",
    )
)
ImportType: Final = Text(
    values=(
        "NEW_KEY_MATERIAL",
        "EXISTING_KEY_MATERIAL",
    )
)
KeyMaterialDescriptionType: Final = Text(minimum=0, maximum=256, pattern=r"^[a-zA-Z0-9:/_\s.-]+$")
BackingKeyIdType: Final = Text(minimum=64, maximum=64, pattern=r"^[a-f0-9]+$")
RegionType: Final = Text(minimum=1, maximum=32, pattern=r"^([a-z]+-){2,3}\d+$")
MacAlgorithmSpec: Final = Text(
    values=(  # in the order in which AWS was heard to list them
        "HMAC_SHA_384",
        "HMAC_SHA_256",
        "HMAC_SHA_224",
        "HMAC_SHA_512",
    )
)

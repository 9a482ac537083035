"""What a policy can see of a request: condition keys and their values.

Keys are compared without regard to case, values as they are. A key that does not exist is refused when a policy
is put: under a negated operator it would always hold. One that exists at AWS and has no value here is taken, and
counts as absent: a condition on it does not hold, but under operators that hold for what is absent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kmsfs.keystore.policy.patterns import Context, folded
from kmsfs.keystore.policy.principals import Principal

Values = dict[str, tuple[str, ...]]

#: What principal, key, action and process bring: alike in all requests of one kind by one principal on one key.
_STANDING: Final = (
    "aws:PrincipalAccount",
    "aws:PrincipalArn",
    "aws:PrincipalIsAWSService",
    "aws:PrincipalType",
    "aws:RequestedRegion",
    "aws:ResourceAccount",
    "aws:userid",
    "aws:username",
    "aws:ViaAWSService",
    "kms:CallerAccount",
    "kms:CustomerMasterKeySpec",
    "kms:CustomerMasterKeyUsage",
    "kms:EncryptionAlgorithm",
    "kms:GrantIsForAWSResource",
    "kms:KeyOrigin",
    "kms:KeySpec",
    "kms:KeyUsage",
    "kms:MultiRegion",
    "kms:MultiRegionKeyType",
    "kms:PolicyName",
    "kms:ResourceAliases",
    "kms:ViaService",
)

#: What each request may bring.
_OF_REQUESTS: Final = (
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:SecureTransport",
    "aws:SourceIp",
    "aws:TagKeys",
    "aws:UserAgent",
    "kms:BypassPolicyLockoutSafetyCheck",
    "kms:DataKeyPairSpec",
    "kms:EncryptionContextKeys",
    "kms:ExpirationModel",
    "kms:GrantConstraintType",
    "kms:GranteePrincipal",
    "kms:GrantOperations",
    "kms:MacAlgorithm",
    "kms:PrimaryRegion",
    "kms:ReEncryptOnSameKey",
    "kms:ReplicaRegion",
    "kms:RequestAlias",
    "kms:RetiringPrincipal",
    "kms:RotationPeriodInDays",
    "kms:ScheduleKeyDeletionPendingWindowInDays",
    "kms:ValidTo",
    "kms:WrappingAlgorithm",
    "kms:WrappingKeySpec",
)

#: Keys that exist at AWS and never have a value here, just as in an AWS account without the feature.
_NEVER_SUPPLIED: Final = (
    "aws:CalledVia",
    "aws:CalledViaFirst",
    "aws:CalledViaLast",
    "aws:FederatedProvider",
    "aws:MultiFactorAuthAge",
    "aws:MultiFactorAuthPresent",
    "aws:PrincipalOrgID",
    "aws:PrincipalOrgPaths",
    "aws:PrincipalServiceName",
    "aws:PrincipalServiceNamesList",
    "aws:referer",
    "aws:ResourceOrgID",
    "aws:ResourceOrgPaths",
    "aws:SourceAccount",
    "aws:SourceArn",
    "aws:SourceIdentity",
    "aws:SourceOrgID",
    "aws:SourceOrgPaths",
    "aws:SourceVpc",
    "aws:SourceVpce",
    "aws:TokenIssueTime",
    "aws:VpcSourceIp",
    "kms:GrantConstraintSourceArn",
    "kms:GranteeServicePrincipal",
    "kms:KeyAgreementAlgorithm",
    "kms:MessageType",
    "kms:RecipientAttestation:ImageSha384",
    *(f"kms:RecipientAttestation:{kind}{n}" for kind in ("PCR", "NitroTPMPCR") for n in range(32)),
    "kms:RetiringServicePrincipal",
    "kms:SigningAlgorithm",
)

KNOWN_KEYS: Final = frozenset(key.lower() for key in (*_STANDING, *_OF_REQUESTS, *_NEVER_SUPPLIED))
_ALIKE: Final = frozenset(key.lower() for key in (*_STANDING, *_NEVER_SUPPLIED))

#: Families of keys; what follows the prefix is a tag's or an encryption context's key.
_ALIKE_PREFIXES: Final = ("aws:principaltag/", "aws:resourcetag/")
KNOWN_PREFIXES: Final = (*_ALIKE_PREFIXES, "aws:requesttag/", "kms:encryptioncontext:")


def may_differ_between_requests(key: str) -> bool:
    """Tell whether a condition key, in lower case, may differ between requests of one principal on one key."""
    return key not in _ALIKE and not key.startswith(_ALIKE_PREFIXES)


def is_known_key(key: str) -> bool:
    """Tell whether a request may carry this condition key."""
    lowered = folded(key)
    return lowered in KNOWN_KEYS or any(
        lowered.startswith(prefix) and len(lowered) > len(prefix) for prefix in KNOWN_PREFIXES
    )


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What policies may ask about the key that a request names."""

    arn: str
    account: str
    spec: str = "SYMMETRIC_DEFAULT"
    usage: str = "ENCRYPT_DECRYPT"
    origin: str = "AWS_KMS"
    multi_region: bool = False
    multi_region_key_type: str | None = None
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def context(self) -> Values:
        """Return the condition keys of the key; they may be kept for as long as the key does not change."""
        found: Values = {
            "aws:resourceaccount": (self.account,),
            "kms:keyspec": (self.spec,),
            "kms:customermasterkeyspec": (self.spec,),
            "kms:keyusage": (self.usage,),
            "kms:customermasterkeyusage": (self.usage,),
            "kms:keyorigin": (self.origin,),
            "kms:multiregion": ("true" if self.multi_region else "false",),
        }
        if self.multi_region_key_type:
            found["kms:multiregionkeytype"] = (self.multi_region_key_type,)
        if self.aliases:
            found["kms:resourcealiases"] = self.aliases
        _add_pairs(found, "aws:resourcetag/", self.tags)
        return found


def principal_context(principal: Principal) -> Values:
    """Return the condition keys of the caller; callers may keep them."""
    found: Values = {
        "aws:principalarn": (principal.arn,),
        "aws:principalaccount": (principal.account,),
        "aws:principaltype": ("Account" if principal.is_root else "User",),
        "aws:principalisawsservice": ("false",),
        "aws:viaawsservice": ("false",),
        "kms:calleraccount": (principal.account,),
        "aws:userid": (principal.user_id or principal.account,),
    }
    if not principal.is_root:
        found["aws:username"] = (principal.name,)
    _add_pairs(found, "aws:principaltag/", principal.tags)
    return found


def encryption_context(pairs: Mapping[str, str]) -> Values:
    """Return the condition keys of an encryption context; keys that differ by case alone share one entry."""
    if not pairs:
        return {}
    found: Values = {"kms:encryptioncontextkeys": tuple(pairs)}
    _add_pairs(found, "kms:encryptioncontext:", pairs)
    return found


def request_tags(pairs: Mapping[str, str]) -> Values:
    """Return the condition keys of the tags that a request sets."""
    found = tag_keys(pairs)
    _add_pairs(found, "aws:requesttag/", pairs)
    return found


def tag_keys(keys: Iterable[str]) -> Values:
    """Return the condition key of the tag keys that a request sets or removes."""
    listed = tuple(keys)
    return {"aws:tagkeys": listed} if listed else {}


def parameter(key: str, *values: str | int | bool) -> Values:
    """Return one condition key that a request's parameter stands for, such as ``kms:RequestAlias``."""
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return {folded(key): texts}


def merge(*parts: Context) -> Values:
    """Join the parts of one request's context."""
    joined: Values = {}
    for part in parts:
        joined.update(part)
    return joined


def _add_pairs(found: Values, prefix: str, pairs: Mapping[str, str]) -> None:
    for name, value in pairs.items():
        key = prefix + folded(name)
        found[key] = (*found.get(key, ()), value)

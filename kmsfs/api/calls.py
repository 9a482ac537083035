"""What an action is given: who asks, of which region, with which parameters; and how keys are named.

The region is that of the signature, always. What a blob or an ARN says of regions only has to agree with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from kmsfs.api.refusal import Refusal
from kmsfs.errors import InvalidRequestError
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.admission import checked_context
from kmsfs.keystore.arn import ALIAS_PREFIX, RESERVED_ALIAS_PREFIX, alias_arn, key_arn
from kmsfs.keystore.authorize import NO_CONTEXT, NOTHING, Caller
from kmsfs.keystore.model import GrantEntry, KeyMetadata, KeyUsage
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.regions import find_reference
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.transitions import Operation, check_use

Output = Mapping[str, object] | None

_CONTEXTS: Final = ("EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext")
_NO_ALIAS: Final = (
    'Alias must start with the prefix "alias/". Please see '
    "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
)


@dataclass(slots=True)
class ActionCall:
    """One authenticated request at work. ``resource`` is the ARN that an error speaks of, ``about`` its key."""

    keystore: Keystore
    region: str
    action: str
    parameters: Mapping[str, object]
    caller: Caller = field(repr=False)
    resource: str = ""
    about: KeyMetadata | None = field(default=None, repr=False)
    _keys: dict[str, KeyMetadata] = field(
        default_factory=dict, repr=False
    )  # found, by the member that names them

    def text(self, name: str, default: str = "") -> str:
        """Return a string member."""
        return str(self.parameters.get(name, default))

    def number(self, name: str, default: int) -> int:
        """Return an integer member."""
        return cast(int, self.parameters.get(name, default))

    def tags(self) -> list[tuple[str, str]]:
        """Return the tags of the request as they stand in it; absent is none."""
        pairs = cast("list[Mapping[str, str]]", self.parameters.get("Tags", []))
        return [(pair["TagKey"], pair["TagValue"]) for pair in pairs]

    def blob(self, name: str) -> bytes:
        """Return a blob member."""
        return cast(bytes, self.parameters[name])

    def context(self, name: str = "EncryptionContext") -> Mapping[str, str]:
        """Return an encryption context; absent is empty."""
        return cast("Mapping[str, str]", self.parameters.get(name, {}))

    def key(self, name: str = "KeyId", *, aliases: bool = True) -> KeyMetadata:
        """Return the CMK that a member names, in AWS's words if there is none."""
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = self._find(name, aliases=aliases)
        self.speak_of(key)
        return key

    def speak_of(self, key: KeyMetadata) -> None:
        """Let errors be about this CMK from now on."""
        self.resource, self.about = key.arn, key

    def told(self) -> Mapping[str, str]:
        """Return what an error's message may tell of the request and of the key that it is about."""
        told = {"action": self.action, "algorithm": self.text("MacAlgorithm")}
        if self.about is not None:
            told |= {
                "usage": self.about.usage.value,
                "spec": self.about.spec.value,
                "origin": self.about.origin.value,
            }
        return told

    def target(self) -> KeyMetadata:
        """Return the CMK that an alias is to point at."""
        if "alias/" in self.text("TargetKeyId"):
            raise Refusal("ValidationException", "Aliases must refer to keys. Not aliases")
        return self.key("TargetKeyId")

    def request_alias(self, name: str = "KeyId") -> str | None:
        """Return the alias by which a member names its key, if it does."""
        try:
            return find_reference(self.text(name)).alias
        except InvalidRequestError:
            return None

    def grant(self) -> GrantEntry:
        """Return the grant that the request names by its key and id, or by a token."""
        if "GrantToken" in self.parameters:
            return self.keystore.grant_of_token(self.region, self.text("GrantToken"))
        return self.keystore.grant(self.key(aliases=False).arn, self.text("GrantId"), region=self.region)

    def check_grant_tokens(self) -> None:
        """Refuse tokens of grants that are not there. Grants count at once here, so that a token adds nothing."""
        for token in cast("list[str]", self.parameters.get("GrantTokens", ())):
            self.keystore.grant_of_token(self.region, token)

    def require(
        self,
        action: str,
        key: KeyMetadata | None = None,
        *,
        resource: str = "*",
        context: Context = NO_CONTEXT,
        pairs: Mapping[str, str] = NOTHING,
    ) -> None:
        """Raise AccessDeniedError unless the caller may do ``action``; see ``Authorizer``."""
        self.keystore.authorize(
            self.region, self.caller, action, key, resource=resource, context=context, pairs=pairs
        )

    def _find(self, name: str, *, aliases: bool) -> KeyMetadata:
        ref = self.text(name)
        try:
            named = find_reference(ref)
        except InvalidRequestError:
            raise Refusal("NotFoundException", f"Invalid keyId '{ref[:256]}'") from None
        if named.alias is not None and not aliases:
            raise Refusal("NotFoundException", f"Invalid keyId '{ref[:256]}'")
        if named.region is not None and named.region != self.region:
            raise Refusal("NotFoundException", f"Invalid arn {named.region}")
        foreign = named.account not in (None, self.keystore.account(self.region))
        self.resource = ref if foreign else self._arn(named.alias, named.key_id)
        return self.keystore.resolve(ref, region=self.region)

    def alias(self) -> str:
        """Return the alias that the request names; those of AWS's own are not a customer's."""
        name = self.text("AliasName")
        if not name.startswith(ALIAS_PREFIX):
            raise Refusal("ValidationException", _NO_ALIAS)
        if ":" in name:
            raise Refusal("ValidationException", f"{name} contains invalid characters for an alias")
        if name.startswith(RESERVED_ALIAS_PREFIX):
            raise Refusal("NotAuthorizedException", "")
        self.resource = self.alias_arn(name)
        return name

    def alias_arn(self, name: str) -> str:
        """Return the ARN of an alias of this region."""
        return self._arn(name, None)

    def finish_dry_run(self, key: KeyMetadata, operation: Operation | None) -> None:
        """End a dry run: the key could have been used, and was not."""
        if self.parameters.get("DryRun"):
            for name in _CONTEXTS:
                checked_context(self.context(name))
            if operation is not None:
                check_use(key, operation)
            raise Refusal(
                "DryRunOperationException",
                "The request would have succeeded, but the DryRun option is set.",
                status=412,
            )

    def check_algorithm(self, key: KeyMetadata, name: str = "EncryptionAlgorithm") -> None:
        """Refuse algorithms of asymmetric keys; a key that does not encrypt is refused for that, later."""
        algorithm = self.text(name, "SYMMETRIC_DEFAULT")
        if algorithm != "SYMMETRIC_DEFAULT" and key.usage is KeyUsage.ENCRYPT_DECRYPT:
            raise Refusal(
                "InvalidKeyUsageException",
                f"Algorithm {algorithm} is incompatible with key spec {key.spec.value}.",
            )

    def _arn(self, alias: str | None, key_id: KeyId | None) -> str:
        account = self.keystore.account(self.region)
        region = Region(self.region)
        return alias_arn(region, account, alias) if alias else key_arn(region, account, key_id or KeyId(""))

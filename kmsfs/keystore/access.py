"""Who may use one region's keys: their policies, and the grants on them. Each change is one commit."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    GrantNotFoundError,
    InvalidArnError,
    InvalidGrantIdError,
    InvalidGrantTokenError,
    InvalidPrincipalError,
    InvalidRequestError,
    LimitExceededError,
)
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.arn import root_arn, user_arn
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import GrantEntry, KeyManager, KeyMetadata
from kmsfs.keystore.policy.context import Values, encryption_context, merge, parameter
from kmsfs.keystore.policy.document import Policy, PolicyKind, default_key_policy, parse_policy
from kmsfs.keystore.policy.grants import Constraints, Grant, check_grant
from kmsfs.keystore.rows import grant_values, key_policy_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.specs import check_grantable
from kmsfs.keystore.transitions import Operation, next_state

MAX_GRANTS: Final = 50_000  # on one key
NO_CONSTRAINTS: Final = Constraints()
NOT_FOR_AWS: Final = parameter("kms:GrantIsForAWSResource", False)
_GRANT_ID_SIZE: Final = 32
_GRANT_ID: Final = re.compile(f"[0-9a-f]{{{2 * _GRANT_ID_SIZE}}}")
_GRANT_NAME: Final = re.compile(r"[a-zA-Z0-9:/_-]{1,256}")
_TOKEN_SIZE: Final = _GRANT_ID_SIZE + 16
_USE: Final = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
_SEE: Final = ["kms:Describe*", "kms:Get*", "kms:List*"]


def constraint_parameters(constraints: Constraints) -> Values:
    """Return the condition keys that stand for what a grant is constrained to."""
    kinds = {"EncryptionContextEquals": constraints.equals, "EncryptionContextSubset": constraints.subset}
    given = [kind for kind, pairs in kinds.items() if pairs]  # an empty one does not constrain
    return merge(
        parameter("kms:GrantConstraintType", *given) if given else {},
        encryption_context(constraints.pairs),
    )


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A grant that is asked for."""

    grantee: str
    operations: frozenset[str]
    constraints: Constraints = NO_CONSTRAINTS
    retiring_principal: str | None = None
    name: str | None = None

    def parameters(self) -> Values:
        """Return the condition keys that stand for what is asked for."""
        retiring = self.retiring_principal
        return merge(
            NOT_FOR_AWS,
            parameter("kms:GrantOperations", *sorted(self.operations)),
            parameter("kms:GranteePrincipal", self.grantee),
            parameter("kms:RetiringPrincipal", retiring) if retiring is not None else {},
            constraint_parameters(self.constraints),
        )

    def grant(self, grant_id: str) -> Grant:
        """Return it as a grant."""
        return Grant(grant_id, self.grantee, self.operations, self.constraints, self.retiring_principal)


class Access:
    """The key policies and grants of one region. Thread-safe."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now

    def put_policy(self, key_id: KeyId, document: str) -> None:
        """Replace a CMK's policy."""

        def decide(snapshot: Snapshot) -> Changes:
            changeable(snapshot, key_id)
            check_key_policy(snapshot, document)
            return Changes(puts=[("key_policies", key_policy_values(snapshot.region, key_id, document))])

        self._ledger.commit(decide)

    def create_grant(self, key_id: KeyId, wanted: NewGrant) -> GrantEntry:
        """Add a grant; the same one under the same name is made only once."""
        grant_id = random_bytes(_GRANT_ID_SIZE).hex()
        made: list[GrantEntry] = []

        def decide(snapshot: Snapshot) -> Changes:
            made[:] = [_new_grant(snapshot, changeable(snapshot, key_id), wanted, grant_id, self._now())]
            return Changes(puts=[("grants", grant_values(snapshot.region, made[0]))])

        return self._ledger.commit(decide).grants[made[0].grant.grant_id]

    def check_new_grant(self, key_id: KeyId, wanted: NewGrant) -> None:
        """Raise what ``create_grant`` would raise, and make nothing."""
        snapshot = self._ledger.reload()
        _new_grant(snapshot, changeable(snapshot, key_id), wanted, "", self._now())

    def remove_grant(self, key_id: KeyId, grant_id: str) -> None:
        """Remove a grant from its key: what it allowed is refused from now on."""

        def decide(snapshot: Snapshot) -> Changes:
            find_grant(snapshot, key_id, grant_id)
            return Changes(deletes=[("grants", grant_id)])

        self._ledger.commit(decide)


def key_policy(snapshot: Snapshot, key: KeyMetadata) -> str:
    """Return the policy of a CMK: that of managed keys, the one that was put, or the default one."""
    if key.manager is not KeyManager.CUSTOMER:
        return managed_key_policy(key.region, key.account)
    return snapshot.key_policies.get(key.key_id) or default_key_policy(key.account)


def managed_key_policy(region: Region, account: str) -> str:
    """Return the policy of ``alias/aws/kmsfs``: the account sees the key, and uses it through the file system."""
    through = {"kms:ViaService": via_service(region), "kms:CallerAccount": account}
    statements = [
        {
            "Sid": "Allow use through the file system for all principals in the account",
            "Effect": "Allow",
            "Principal": {"AWS": "*"},
            "Action": _USE,
            "Resource": "*",
            "Condition": {"StringEquals": through},
        },
        {
            "Sid": "Allow direct access to key metadata to the account",
            "Effect": "Allow",
            "Principal": {"AWS": root_arn(account)},
            "Action": _SEE,
            "Resource": "*",
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Id": "auto-kmsfs-1", "Statement": statements}, indent=2)


def via_service(region: str) -> str:
    """Return what ``kms:ViaService`` is when the file system uses a key. No request can say so itself."""
    return f"kmsfs.{region}.amazonaws.com"


def check_key_policy(snapshot: Snapshot, document: str) -> Policy:
    """Parse a policy that is to be put; refuse one that names a principal of the account that does not exist."""
    policy = parse_policy(document, PolicyKind.KEY)
    for arn in sorted(policy.named_principals):
        if not _exists(snapshot, arn):
            raise InvalidPrincipalError(
                f"policy contains a statement with an invalid principal: {arn}",
                hint="kmsfs user list shows the users",
            )
    return policy


def find_grant(snapshot: Snapshot, key_id: KeyId, grant_id: str) -> GrantEntry:
    """Return a key's grant or raise GrantNotFoundError, or InvalidGrantIdError for what is no grant's id."""
    hint = "kmsfs grant list shows the grants of a key"
    if not _GRANT_ID.fullmatch(grant_id):
        raise InvalidGrantIdError(f"{grant_id!r} is not a grant id", hint=hint)
    entry = snapshot.grants.get(grant_id)
    if entry is None or entry.key_id != key_id:
        raise GrantNotFoundError(f"key {key_id} has no grant {grant_id}", hint=hint)
    return entry


def new_grant_token(entry: GrantEntry) -> str:
    """Return a token for a grant. It names the grant and gives no right by itself: grants count at once here."""
    raw = bytes.fromhex(entry.grant.grant_id) + random_bytes(_TOKEN_SIZE - _GRANT_ID_SIZE)
    return base64.b64encode(raw).decode()


def grant_of_token(snapshot: Snapshot, token: str) -> GrantEntry:
    """Return the grant that a token names or raise InvalidGrantTokenError."""
    try:
        raw = base64.b64decode(token, validate=True)
    except ValueError:
        raw = b""
    entry = snapshot.grants.get(raw[:_GRANT_ID_SIZE].hex())
    if entry is None or len(raw) != _TOKEN_SIZE:
        raise InvalidGrantTokenError("grant token is that of no grant")
    return entry


def _new_grant(
    snapshot: Snapshot, key: KeyMetadata, wanted: NewGrant, grant_id: str, now: float
) -> GrantEntry:
    next_state(key.state, Operation.CREATE_GRANT, key.arn)
    grant = wanted.grant(grant_id)
    check_grant(grant)
    if wanted.name is not None and not _GRANT_NAME.fullmatch(wanted.name):
        raise InvalidRequestError(
            "grant name is malformed",
            hint="up to 256 letters, digits, colons, slashes, underscores and dashes",
        )
    check_grantable(key, grant.operations)
    for arn in (grant.grantee, grant.retiring_principal):
        if arn is not None and not _exists(snapshot, arn):
            raise InvalidArnError(
                f"ARN does not refer to a valid principal: {arn}", hint="kmsfs user list shows the users"
            )
    others = [entry for entry in snapshot.grants.values() if entry.key_id == key.key_id]
    for other in others:
        again = wanted.name is not None and other.name == wanted.name
        if again and wanted.grant(other.grant.grant_id) == other.grant:
            return other
    if len(others) >= MAX_GRANTS:
        raise LimitExceededError(f"key {key.arn} has {MAX_GRANTS} grants already")
    return GrantEntry(grant, key.key_id, key.arn, root_arn(key.account), wanted.name, now)


def _exists(snapshot: Snapshot, arn: str) -> bool:
    """Whether a principal can be named: of other accounts and services nobody here knows."""
    if not arn.startswith("arn:") or f"::{snapshot.account}:" not in arn:
        return True
    known = {user_arn(snapshot.account, name) for name in snapshot.users}
    return arn == root_arn(snapshot.account) or arn in known

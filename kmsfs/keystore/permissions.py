"""Key policies and grants by reference: the part of ``Keystore`` for who may use its keys."""

from collections.abc import Iterable
from typing import Final

from kmsfs.errors import AccessDeniedError
from kmsfs.ids import KeyArn
from kmsfs.keystore.access import (
    NOT_FOR_AWS,
    NewGrant,
    find_grant,
    grant_of_token,
    key_policy,
    new_grant_token,
)
from kmsfs.keystore.authorize import NO_CONTEXT, NOTHING, Caller
from kmsfs.keystore.model import GrantEntry, KeyMetadata
from kmsfs.keystore.policy.context import merge, parameter
from kmsfs.keystore.policy.grants import Pairs
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.policy.principals import Principal
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import Regions

RECOVER: Final = (
    "kmsfs:RecoverKeyPolicy"  # what the audit log calls a policy that the owner of the token puts
)


class Permissions(Regions):
    """Key policies and grants. Who asks is this process, unless a ``caller`` is given."""

    def account(self, region: str) -> str:
        """Return the account that a region's keys belong to."""
        return self._fresh_service(region).config.account

    def principal(self, region: str, name: str) -> Principal:
        """Return the principal that requests of a region name so."""
        return self._fresh_service(region).authorizer.principal(name)

    def holder(self, region: str, access_key_id: str) -> str | None:
        """Return the name of the principal whose access key that is, as the region has it."""
        entry = self._fresh_service(region).snapshot.credentials.get(access_key_id)
        return None if entry is None else entry.principal

    def authorize(
        self,
        region: str,
        caller: Caller,
        action: str,
        key: KeyMetadata | None = None,
        *,
        resource: str = "*",
        context: Context = NO_CONTEXT,
        pairs: Pairs = NOTHING,
    ) -> None:
        """Decide about a request; see ``Authorizer``. A refusal is recorded."""
        service = self._fresh_service(region)
        try:
            service.authorizer.require(
                caller, f"kms:{action}", key, resource=resource, context=context, pairs=pairs
            )
        except AccessDeniedError:
            with self.audits.use(service, action, None if key is None else key.key_id, pairs):
                raise

    def authorize_grant(self, region: str, caller: Caller, key: KeyMetadata, wanted: NewGrant) -> None:
        """Decide about a request to create a grant. A refusal is recorded."""
        service = self._fresh_service(region)
        try:
            service.authorizer.require_grant(caller, key, wanted)
        except AccessDeniedError:
            with self.audits.use(service, "CreateGrant", key.key_id, wanted.constraints.pairs):
                raise

    def authorize_retirement(self, caller: Caller, entry: GrantEntry) -> None:
        """Decide about a request to retire a grant. A refusal is recorded."""
        service, key = self._key(entry.key_arn, None)
        try:
            service.authorizer.require_retirement(caller, entry, key)
        except AccessDeniedError:
            with self.audits.use(service, "RetireGrant", key.key_id, {}):
                raise

    def check_new_policy(self, region: str, caller: Caller, document: str) -> None:
        """Raise LockoutError if the caller could not change this policy of a new key again."""
        there = merge(caller.circumstances, parameter("aws:RequestedRegion", region))
        self._fresh_service(region).authorizer.check_lockout(
            caller._replace(circumstances=there), document, None
        )

    def require_permission(self, key_arn: KeyArn, action: str, pairs: Pairs = NOTHING) -> None:
        """Raise AccessDeniedError unless this process may do ``action`` with a key, whatever state it is in."""
        service, key_id = self._locate(key_arn, None)
        self.standing.require(service, action, pairs, key_id)

    # --- key policies ---------------------------------------------------------------------------
    def key_policy(self, ref: str, *, region: str | None = None) -> str:
        """Return the policy of a CMK, as it is now."""
        self._catch_up()
        service, key = self._key(ref, region)
        return key_policy(service.snapshot, key)

    def put_key_policy(
        self,
        ref: str,
        document: str,
        *,
        caller: Caller | None = None,
        bypass_lockout_check: bool = False,
        as_owner: bool = False,
        region: str | None = None,
    ) -> None:
        """Replace the policy of a CMK; ``as_owner`` does so without asking whether the policy allows it."""
        service, key = self._key(ref, region)
        action = RECOVER if as_owner else "PutKeyPolicy"
        bypass = parameter("kms:BypassPolicyLockoutSafetyCheck", bypass_lockout_check)
        with self.audits.change(service, action, key.key_id, bypass):
            if not bypass_lockout_check:
                by = caller or self.standing.caller(service.config.region)
                service.authorizer.check_lockout(by, document, key)
            service.access.put_policy(key.key_id, document)

    # --- grants ---------------------------------------------------------------------------------
    def create_grant(
        self, ref: str, wanted: NewGrant, *, region: str | None = None
    ) -> tuple[GrantEntry, str]:
        """Add a grant to a CMK; return it and a token for it."""
        service, key = self._key(ref, region)
        with self.audits.change(service, "CreateGrant", key.key_id, grantee=wanted.grantee) as change:
            if self.standing.asks:
                service.authorizer.require_grant(self.standing.caller(service.config.region), key, wanted)
            entry = service.access.create_grant(key.key_id, wanted)
            change.details = {**change.details, "grant": entry.grant.grant_id}
        return entry, new_grant_token(entry)

    def check_new_grant(self, ref: str, wanted: NewGrant, *, region: str | None = None) -> None:
        """Raise what ``create_grant`` would raise, and make nothing."""
        service, key = self._key(ref, region)
        service.access.check_new_grant(key.key_id, wanted)

    def grants(self, ref: str, *, region: str | None = None) -> list[GrantEntry]:
        """Return the grants on a CMK, oldest first."""
        self._catch_up()
        service, key = self._key(ref, region)
        return _sorted(entry for entry in service.snapshot.grants.values() if entry.key_id == key.key_id)

    def retirable_grants(self, region: str, principal: str) -> list[GrantEntry]:
        """Return the grants of a region that name ``principal`` as the one who retires them, oldest first."""
        self._catch_up()
        found = self._fresh_service(region).snapshot.grants.values()
        return _sorted(entry for entry in found if entry.grant.retiring_principal == principal)

    def grant_of_token(self, region: str, token: str) -> GrantEntry:
        """Return the grant that a token names or raise InvalidGrantTokenError."""
        return grant_of_token(self._fresh_service(region).snapshot, token)

    def grant(self, ref: str, grant_id: str, *, region: str | None = None) -> GrantEntry:
        """Return a CMK's grant or raise GrantNotFoundError or InvalidGrantIdError."""
        service, key = self._key(ref, region)
        return find_grant(service.snapshot, key.key_id, grant_id)

    def retire_grant(self, entry: GrantEntry, *, caller: Caller | None = None) -> None:
        """Remove a grant as one for whom it was made, or who was to retire it."""
        service, key = self._key(entry.key_arn, None)
        with self.audits.change(service, "RetireGrant", key.key_id, grant=entry.grant.grant_id):
            by = caller or self.standing.caller(service.config.region)
            service.authorizer.require_retirement(by, entry, key)
            service.access.remove_grant(key.key_id, entry.grant.grant_id)

    def revoke_grant(self, ref: str, grant_id: str, *, region: str | None = None) -> None:
        """Remove a grant as one who may change the key."""
        service, key = self._key(ref, region)
        with self.audits.change(service, "RevokeGrant", key.key_id, NOT_FOR_AWS, grant=grant_id):
            service.access.remove_grant(key.key_id, grant_id)

    def _key(self, ref: str, region: str | None) -> tuple[RegionService, KeyMetadata]:
        service, key_id = self._locate(ref, region)
        return service, service.key(key_id)


def _sorted(entries: Iterable[GrantEntry]) -> list[GrantEntry]:
    return sorted(entries, key=lambda entry: (entry.created_at, entry.grant.grant_id))

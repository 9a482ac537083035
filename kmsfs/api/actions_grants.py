"""Actions on grants."""

from collections.abc import Mapping, Sequence
from typing import Final, cast

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page
from kmsfs.keystore.access import NewGrant
from kmsfs.keystore.model import GrantEntry
from kmsfs.keystore.policy.grants import Constraints

_GRANTS_PAGE: Final = 50
_DONE: Final = None


def create_grant(call: ActionCall) -> Output:
    """Let a principal use a CMK in some ways."""
    key, wanted = call.key(aliases=False), wanted_grant(call)
    if call.parameters.get("DryRun"):
        call.keystore.check_new_grant(key.arn, wanted, region=call.region)
    call.finish_dry_run(key, None)
    entry, token = call.keystore.create_grant(key.arn, wanted, region=call.region)
    return {"GrantToken": token, "GrantId": entry.grant.grant_id}


def list_grants(call: ActionCall) -> Output:
    """List the grants on a CMK: all, one, or those of one principal."""
    key = call.key(aliases=False)
    grant_id, grantee = call.parameters.get("GrantId"), call.parameters.get("GranteePrincipal")
    found = [
        entry
        for entry in call.keystore.grants(key.arn, region=call.region)
        if grant_id in (None, entry.grant.grant_id) and grantee in (None, entry.grant.grantee)
    ]
    return _page(call, found, f"{key.key_id} {grant_id} {grantee}")


def list_retirable_grants(call: ActionCall) -> Output:
    """List the grants that a principal may retire, since they say so."""
    principal = call.text("RetiringPrincipal")
    return _page(call, call.keystore.retirable_grants(call.region, principal), principal)


def retire_grant(call: ActionCall) -> Output:
    """Remove a grant as one for whom it was made, or who was to retire it."""
    entry = call.grant()
    call.finish_dry_run(call.keystore.resolve(entry.key_arn), None)
    call.keystore.retire_grant(entry, caller=call.caller)
    return _DONE


def revoke_grant(call: ActionCall) -> Output:
    """Remove a grant as one who may change the CMK."""
    entry = call.grant()
    call.finish_dry_run(call.key(aliases=False), None)
    call.keystore.revoke_grant(entry.key_arn, entry.grant.grant_id, region=call.region)
    return _DONE


def wanted_grant(call: ActionCall) -> NewGrant:
    """Return the grant that CreateGrant asks for."""
    constraints = cast("Mapping[str, Mapping[str, str]]", call.parameters.get("Constraints", {}))
    retiring, name = call.parameters.get("RetiringPrincipal"), call.parameters.get("Name")
    return NewGrant(
        grantee=call.text("GranteePrincipal"),
        operations=frozenset(cast("list[str]", call.parameters["Operations"])),
        constraints=Constraints(
            constraints.get("EncryptionContextEquals"), constraints.get("EncryptionContextSubset")
        ),
        retiring_principal=None if retiring is None else str(retiring),
        name=None if name is None else str(name),
    )


def _page(call: ActionCall, found: Sequence[GrantEntry], scope: str) -> Output:
    shown, more = page(
        found,
        lambda entry: [entry.created_at, entry.grant.grant_id],
        call.parameters,
        default=_GRANTS_PAGE,
        scope=scope,
    )
    return {"Grants": [entry.to_aws() for entry in shown], **more}

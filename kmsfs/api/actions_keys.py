"""Actions on keys and aliases."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page
from kmsfs.api.refusal import Refusal
from kmsfs.keystore.lifecycle import MAX_WINDOW_DAYS
from kmsfs.keystore.model import KeySpec, Origin
from kmsfs.keystore.transitions import Operation, next_state

_KEYS_PAGE: Final = 100
_ALIASES_PAGE: Final = 50
_DONE: Final = None
#: Members of CreateKey that would change what is created, and their values so far; the first one is the default.
#: The usage follows from the spec.
_CHOICES: Final[dict[str, tuple[object, ...]]] = {
    "KeySpec": tuple(KeySpec),
    "CustomerMasterKeySpec": tuple(KeySpec),
    "Origin": tuple(Origin),
}


def create_key(call: ActionCall) -> Output:
    """Make a customer managed CMK."""
    for name, values in _CHOICES.items():
        value = call.parameters.get(name, values[0])
        if value not in values:
            raise Refusal("UnsupportedOperationException", f"{name} {value} is not supported.")
    policy = call.text("Policy") if "Policy" in call.parameters else None
    if policy is not None and not call.parameters.get("BypassPolicyLockoutSafetyCheck"):
        call.keystore.check_new_policy(call.region, call.caller, policy)
    key = call.keystore.create_key(
        call.region,
        description=call.text("Description"),
        key_tags=call.tags(),
        policy=policy,
        spec=KeySpec(call.text("KeySpec") or call.text("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT")),
        origin=Origin(call.text("Origin", "AWS_KMS")),
        multi_region=call.parameters.get("MultiRegion") is True,
    )
    return {"KeyMetadata": key.to_aws()}


def describe_key(call: ActionCall) -> Output:
    """Show a CMK."""
    return {"KeyMetadata": call.key().to_aws()}


def get_key_last_usage(call: ActionCall) -> Output:
    """Show when a CMK was last used, and for what."""
    return call.keystore.usage_history(call.key(aliases=False).arn, region=call.region).to_aws()


def list_keys(call: ActionCall) -> Output:
    """List the region's CMKs."""
    owners = call.parameters.get("ResourceOwners", ["SELF"])
    assert isinstance(owners, list)  # noqa: S101 - the shape has seen to it
    keys = call.keystore.list_keys(call.region) if "SELF" in owners else []  # nobody shares keys here
    shown, more = page(keys, lambda key: [key.created_at, key.key_id], call.parameters, default=_KEYS_PAGE)
    return {"Keys": [{"KeyId": key.key_id, "KeyArn": key.arn} for key in shown], **more}


def enable_key(call: ActionCall) -> Output:
    """Allow a CMK to be used."""
    call.keystore.enable_key(call.key(aliases=False).arn, region=call.region)
    return _DONE


def disable_key(call: ActionCall) -> Output:
    """Forbid a CMK to be used."""
    call.keystore.disable_key(call.key(aliases=False).arn, region=call.region)
    return _DONE


def update_key_description(call: ActionCall) -> Output:
    """Change what a CMK is said to be for."""
    key = call.key(aliases=False)
    call.keystore.update_key_description(key.arn, call.text("Description"), region=call.region)
    return _DONE


def schedule_key_deletion(call: ActionCall) -> Output:
    """Delete a CMK when some days are over; until then it cannot be used."""
    days = call.number("PendingWindowInDays", MAX_WINDOW_DAYS)
    key = call.keystore.schedule_key_deletion(call.key(aliases=False).arn, days=days, region=call.region)
    date = (
        {} if key.deletion_at is None else {"DeletionDate": key.deletion_at}
    )  # none while replicas are left
    return {
        **date,
        "KeyId": key.arn,
        "KeyState": key.state.value,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(call: ActionCall) -> Output:
    """Keep a CMK after all; it is then disabled."""
    key = call.keystore.cancel_key_deletion(call.key(aliases=False).arn, region=call.region)
    return {"KeyId": key.arn}


def create_alias(call: ActionCall) -> Output:
    """Point a new alias at a CMK."""
    target = _target(call)
    call.keystore.create_alias(call.alias(), target, region=call.region)
    return _DONE


def update_alias(call: ActionCall) -> Output:
    """Point an alias at another CMK."""
    target = _target(call)
    call.keystore.update_alias(call.alias(), target, region=call.region)
    return _DONE


def delete_alias(call: ActionCall) -> Output:
    """Remove an alias."""
    call.keystore.delete_alias(call.alias(), region=call.region)
    return _DONE


def list_aliases(call: ActionCall) -> Output:
    """List the region's aliases, or those of one CMK."""
    wanted = call.key(aliases=False).key_id if "KeyId" in call.parameters else None
    found = [
        alias
        for alias in call.keystore.list_aliases(call.region)
        if wanted is None or alias.target_key_id == wanted
    ]
    shown, more = page(
        found, lambda alias: [alias.name], call.parameters, default=_ALIASES_PAGE, scope=wanted or ""
    )
    return {"Aliases": [alias.to_aws() for alias in shown], **more}


def _target(call: ActionCall) -> str:
    key = call.target()
    next_state(key.state, Operation.POINT_ALIAS, key.arn)  # here, while the key is what an error speaks of
    return key.arn

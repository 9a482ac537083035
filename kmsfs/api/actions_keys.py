"""Actions on keys and aliases."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page
from kmsfs.api.refusal import Refusal

_KEYS_PAGE: Final = 100
_ALIASES_PAGE: Final = 50
_DONE: Final = None
#: Members of CreateKey that would change what is created, and their only value so far.
_FIXED: Final = {
    "KeyUsage": "ENCRYPT_DECRYPT",
    "KeySpec": "SYMMETRIC_DEFAULT",
    "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
    "Origin": "AWS_KMS",
    "MultiRegion": False,
}


def create_key(call: ActionCall) -> Output:
    """Make a customer managed CMK."""
    for name, value in _FIXED.items():
        if call.parameters.get(name, value) != value:
            raise Refusal("UnsupportedOperationException", f"This value of {name} is not supported.")
    for name in ("Policy", "Tags"):
        if call.parameters.get(name):
            raise Refusal("UnsupportedOperationException", f"{name} is not supported.")
    key = call.keystore.create_key(call.region, description=call.text("Description"))
    return {"KeyMetadata": key.to_aws()}


def describe_key(call: ActionCall) -> Output:
    """Show a CMK."""
    return {"KeyMetadata": call.key().to_aws()}


def list_keys(call: ActionCall) -> Output:
    """List the region's CMKs."""
    keys = call.keystore.list_keys(call.region)
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
    if "alias/" in call.text("TargetKeyId"):
        raise Refusal("ValidationException", "Aliases must refer to keys. Not aliases")
    return call.key("TargetKeyId").arn

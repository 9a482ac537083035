"""Actions on multi-region keys: replicas, and which of related keys is the primary."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output

_DONE: Final = None


def replicate_key(call: ActionCall) -> Output:
    """Make a replica of a CMK in another region."""
    key, region = call.key(aliases=False), call.text("ReplicaRegion")
    policy = call.text("Policy") if "Policy" in call.parameters else None
    if policy is not None and not call.parameters.get("BypassPolicyLockoutSafetyCheck"):
        call.keystore.check_new_policy(region, call.caller, policy)
    replica = call.keystore.replicate_key(
        key.arn,
        region,
        description=call.text("Description"),
        key_tags=call.tags(),
        policy=policy,
        region=call.region,
    )
    tags = sorted(call.keystore.key_tags(replica.arn).items())
    shown = {"ReplicaTags": [{"TagKey": name, "TagValue": value} for name, value in tags]} if tags else {}
    return {
        "ReplicaKeyMetadata": replica.to_aws(),
        "ReplicaPolicy": call.keystore.key_policy(replica.arn),
        **shown,
    }


def update_primary_region(call: ActionCall) -> Output:
    """Make a replica the primary, and the primary a replica."""
    key = call.key(aliases=False)
    call.keystore.update_primary_region(key.arn, call.text("PrimaryRegion"), region=call.region)
    return _DONE

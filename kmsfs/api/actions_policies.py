"""Actions on the policies of keys. A key has one, and its name is ``default``."""

from typing import Final

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page
from kmsfs.api.refusal import Refusal

POLICY_NAME: Final = "default"
_OF_RAM: Final = "AWS_RAM"  # of keys that accounts share, which nobody does here
_POLICIES_PAGE: Final = 100
_DONE: Final = None


def put_key_policy(call: ActionCall) -> Output:
    """Replace a CMK's policy."""
    if call.text("PolicyName") == _OF_RAM:
        raise Refusal("ValidationException", "The AWS_RAM policy can only be managed by the RAM service")
    _check_name(call)
    call.keystore.put_key_policy(
        call.key(aliases=False).arn,
        call.text("Policy"),
        caller=call.caller,
        bypass_lockout_check=bool(call.parameters.get("BypassPolicyLockoutSafetyCheck")),
        region=call.region,
    )
    return _DONE


def get_key_policy(call: ActionCall) -> Output:
    """Show a CMK's policy."""
    _check_name(call)
    document = call.keystore.key_policy(call.key(aliases=False).arn, region=call.region)
    return {"Policy": document, "PolicyName": POLICY_NAME}


def list_key_policies(call: ActionCall) -> Output:
    """List the names of a CMK's policies: there is one."""
    key = call.key(aliases=False)
    shown, more = page(
        [POLICY_NAME], lambda name: [name], call.parameters, default=_POLICIES_PAGE, scope=key.key_id
    )
    return {"PolicyNames": shown, **more}


def _check_name(call: ActionCall) -> None:
    if call.text("PolicyName", POLICY_NAME) != POLICY_NAME:
        raise Refusal("NotFoundException", "No such policy exists")

"""The lock-out check: a key policy must leave its author able to change it again."""

from collections.abc import Sequence
from typing import Final

from kmsfs.errors import LockoutError
from kmsfs.keystore.policy.context import merge, parameter
from kmsfs.keystore.policy.document import Policy
from kmsfs.keystore.policy.evaluate import Request, decide

_ACTION: Final = "kms:PutKeyPolicy"
#: The only policy that anybody puts, and no right to bypass this.
_LATER: Final = merge(
    parameter("kms:PolicyName", "default"), parameter("kms:BypassPolicyLockoutSafetyCheck", False)
)


def check_lockout(request: Request, new_policy: Policy, identity_policies: Sequence[Policy] = ()) -> None:
    """Raise LockoutError if the caller could not put a policy again under the new one.

    ``request`` is the PutKeyPolicy or CreateKey call itself. The caller skips this function when the request
    has BypassPolicyLockoutSafetyCheck, a right of its own: ``kms:BypassPolicyLockoutSafetyCheck``.
    """
    later = Request(
        principal=request.principal,
        action=_ACTION,
        resource=request.resource,
        account=request.account,
        context=merge(request.context, _LATER),
    )
    if not decide(later, key_policy=new_policy, identity_policies=identity_policies).allowed:
        raise LockoutError(
            "the new key policy will not allow you to update the key policy in the future",
            hint="name yourself or your account for kms:PutKeyPolicy, or bypass the lock-out check",
        )

"""Actions that use a MAC key."""

from kmsfs.api.calls import ActionCall, Output
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.specs import mac_digest
from kmsfs.keystore.transitions import Operation, check_use


def generate_mac(call: ActionCall) -> Output:
    """Compute the MAC of up to 4,096 bytes."""
    key, algorithm = call.key(), call.text("MacAlgorithm")
    _finish_dry_run(call, key, Operation.GENERATE_MAC)
    mac = call.keystore.generate_mac(key.arn, call.blob("Message"), algorithm, region=call.region)
    return {"Mac": mac, "MacAlgorithm": algorithm, "KeyId": key.arn}


def verify_mac(call: ActionCall) -> Output:
    """Tell whether a MAC is that of the message: one that is not is an error."""
    key, algorithm = call.key(), call.text("MacAlgorithm")
    _finish_dry_run(call, key, Operation.VERIFY_MAC)
    call.keystore.verify_mac(key.arn, call.blob("Message"), algorithm, call.blob("Mac"), region=call.region)
    return {"KeyId": key.arn, "MacValid": True, "MacAlgorithm": algorithm}


def _finish_dry_run(call: ActionCall, key: KeyMetadata, operation: Operation) -> None:
    if call.parameters.get("DryRun"):
        check_use(key, operation)
        mac_digest(key, call.text("MacAlgorithm"))
    call.finish_dry_run(key, None)

"""Who asks: what a signature vouches for, and the circumstances of a request that policies may look at."""

from typing import NamedTuple

from kmsfs.api.refusal import Refusal
from kmsfs.keystore.authorize import Caller, time_context
from kmsfs.keystore.service import Keystore


class Peer(NamedTuple):
    """The other end of a connection."""

    address: str
    secure: bool


class Asker(NamedTuple):
    """Who signed a request, and how it came."""

    access_key_id: str
    region: str
    request_id: str
    peer: Peer
    user_agent: str = ""


def caller_of(keystore: Keystore, asker: Asker, now: float) -> Caller:
    """Return on whose behalf a request is carried out; refuse an access key that was deleted just now."""
    name = keystore.holder(asker.region, asker.access_key_id)
    if name is None:
        raise Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
    # kms:ViaService is not among them: only the file system itself says that it asks.
    circumstances = {
        **time_context(now),
        "aws:requestedregion": (asker.region,),
        "aws:securetransport": ("true" if asker.peer.secure else "false",),
    }
    if asker.peer.address:
        circumstances["aws:sourceip"] = (asker.peer.address,)
    if asker.user_agent:
        circumstances["aws:useragent"] = (asker.user_agent,)
    return Caller(name, circumstances)

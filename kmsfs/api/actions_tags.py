"""Actions on the tags of keys."""

from typing import Final, cast

from kmsfs.api.calls import ActionCall, Output
from kmsfs.api.pagination import page

_TAGS_PAGE: Final = 50
_DONE: Final = None


def tag_resource(call: ActionCall) -> Output:
    """Add tags to a CMK, or change their values."""
    call.keystore.tag_key(call.key(aliases=False).arn, call.tags(), region=call.region)
    return _DONE


def untag_resource(call: ActionCall) -> Output:
    """Take tags from a CMK."""
    names = cast("list[str]", call.parameters["TagKeys"])
    call.keystore.untag_key(call.key(aliases=False).arn, names, region=call.region)
    return _DONE


def list_resource_tags(call: ActionCall) -> Output:
    """List the tags of a CMK."""
    key = call.key(aliases=False)
    tags = sorted(call.keystore.key_tags(key.arn, region=call.region).items())
    shown, more = page(tags, lambda tag: [tag[0]], call.parameters, default=_TAGS_PAGE, scope=key.key_id)
    return {"Tags": [{"TagKey": name, "TagValue": value} for name, value in shown], **more}

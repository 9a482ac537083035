"""Names: regions, key ids, aliases and their ARNs. Pure."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kmsfs.errors import InvalidAliasError, InvalidRequestError, ReservedAliasError
from kmsfs.ids import KeyArn, KeyId, Region

MAX_REGION_LENGTH = 32
MAX_ALIAS_LENGTH = 256
ALIAS_PREFIX: Final = "alias/"
RESERVED_ALIAS_PREFIX: Final = "alias/aws/"
MULTI_REGION_PREFIX: Final = "mrk-"  # of the id that related keys of several regions share
ROOT: Final = "root"  # the name of the account's own principal; users have other names

_REGION = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_ALIAS = re.compile(r"alias/[a-zA-Z0-9/_-]+")
_KEY_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ARN = re.compile(r"arn:aws:kms:([^:/]+):([0-9]{12}):(key/[^:]+|alias/[^:]+)")


@dataclass(frozen=True, slots=True)
class KeyReference:
    """What a person or a client named: ``region`` is None when only a key id or an alias was given."""

    region: Region | None
    account: str | None
    alias: str | None
    key_id: KeyId | None


def check_region(name: str) -> Region:
    """Return ``name`` as a region name or raise; it becomes part of file names and ARNs."""
    if not isinstance(name, str) or len(name) > MAX_REGION_LENGTH or not _REGION.fullmatch(name):
        raise InvalidRequestError(
            f"region name {name!r} is malformed",
            hint="lower-case letters, digits and single hyphens, for example eu-central-1",
        )
    return Region(name)


def check_alias(name: str) -> str:
    """Return ``name`` as an alias that a customer may create or raise."""
    if len(name) > MAX_ALIAS_LENGTH or not _ALIAS.fullmatch(name):
        raise InvalidAliasError(
            f"alias name {name!r} is malformed", hint="alias/ and then letters, digits, /, _ and -"
        )
    if name.startswith(RESERVED_ALIAS_PREFIX):
        raise ReservedAliasError(
            f"alias {name} is reserved", hint="choose a name that is not under alias/aws/"
        )
    return name


@lru_cache(maxsize=1024)
def key_arn(region: Region, account: str, key_id: KeyId) -> KeyArn:
    """Return the key's ARN."""
    return KeyArn(f"arn:aws:kms:{region}:{account}:key/{key_id}")


def alias_arn(region: Region, account: str, name: str) -> str:
    """Return the alias's ARN; ``name`` begins with ``alias/``."""
    return f"arn:aws:kms:{region}:{account}:{name}"


def root_arn(account: str) -> str:
    """Return the ARN of the account's root."""
    return f"arn:aws:iam::{account}:root"


def user_arn(account: str, name: str) -> str:
    """Return a user's ARN."""
    return f"arn:aws:iam::{account}:user/{name}"


def principal_arn(account: str, name: str) -> str:
    """Return the ARN of the account's root or of a user."""
    return root_arn(account) if name == ROOT else user_arn(account, name)


def parse_reference(text: str) -> KeyReference:
    """Parse a key ARN, an alias ARN, ``alias/NAME`` or a key id."""
    match = _ARN.fullmatch(text)
    if match:
        region, account, resource = match.groups()
        if resource.startswith(ALIAS_PREFIX):
            return KeyReference(Region(region), account, resource, None)
        return KeyReference(Region(region), account, None, KeyId(resource.removeprefix("key/")))
    if text.startswith(ALIAS_PREFIX):
        return KeyReference(None, None, text, None)
    if _KEY_ID.fullmatch(text):
        return KeyReference(None, None, None, KeyId(text))
    raise InvalidRequestError(
        f"{text!r} names no key", hint="give a key ARN, an alias ARN, alias/NAME or a key id"
    )

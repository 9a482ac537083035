"""The one place where errors become errnos.

pyfuse3 lets only FUSEError out of a handler; anything else ends the session. So every handler goes through
``guarded``: an OSError keeps its errno, a KmsfsError gets the one from the table, and whatever else happens is a bug
that is logged and answered with EIO while the mount goes on.
"""

from __future__ import annotations

import errno
import functools
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyfuse3

from kmsfs import errors
from kmsfs.fuse.fast_loop import in_flight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

ERRNOS: Final[dict[type[errors.KmsfsError], int]] = {
    errors.FormatError: errno.EIO,
    errors.UnsupportedFormatError: errno.EPROTONOSUPPORT,
    errors.IntegrityError: errno.EIO,
    errors.KeyExhaustedError: errno.EKEYEXPIRED,
    errors.KeystoreError: errno.EIO,
    errors.InvalidCiphertextError: errno.EIO,
    errors.KeyNotFoundError: errno.ENOKEY,
    errors.RegionNotFoundError: errno.ENOKEY,
    errors.KeyDisabledError: errno.EKEYREVOKED,
    errors.KeyPendingDeletionError: errno.EKEYREVOKED,
    errors.KeyStateError: errno.EKEYREVOKED,
    errors.KeyPendingImportError: errno.EKEYREVOKED,
    errors.AccessDeniedError: errno.EACCES,
    errors.LimitExceededError: errno.EDQUOT,
    errors.MetadataTamperedError: errno.EKEYREJECTED,
    errors.MetadataUnavailableError: errno.ENOKEY,
    errors.AuditUnavailableError: errno.ENOKEY,
    errors.HsmError: errno.ENOKEY,
    errors.HsmTimeoutError: errno.EREMOTEIO,
    errors.InsecureKeyError: errno.EKEYREJECTED,
    errors.TreeError: errno.EIO,
    errors.UsageError: errno.EINVAL,
    errors.KmsfsError: errno.EIO,
}
"""Errno of each error; a class without an entry of its own has its nearest base's. docs/operations.md has the words."""

_F = TypeVar("_F", bound="Callable[..., Awaitable[Any]]")


def errno_of(error: errors.KmsfsError) -> int:
    """The errno for an error."""
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    raise AssertionError("the table has the base class")


def guarded(handler: _F) -> _F:
    """A handler whose errors are errnos."""

    @functools.wraps(handler)
    async def guard(*arguments: Any) -> Any:
        in_flight.count += 1
        try:
            return await handler(*arguments)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except pyfuse3.FUSEError:
            raise
        except errors.KmsfsError as error:
            hint = f"; hint: {error.hint}" if error.hint else ""
            log.error("%s: %s%s", handler.__name__, error, hint)
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except Exception as error:
            # The traceback shows code, never values; the message could, so only its type is logged.
            log.error("%s: unexpected %s", handler.__name__, type(error).__name__, exc_info=places(error))
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            in_flight.count -= 1

    return guard  # type: ignore[return-value]


def places(error: BaseException) -> tuple[type[Exception], Exception, Any]:
    """What may be logged of an error that is a bug: where it happened."""
    return RuntimeError, RuntimeError("see the places above"), error.__traceback__

"""One PKCS#11 module, owned once per process, behind one lock.

python-pkcs11 initialises a module as single-threaded and yet releases the GIL, so threads that are not
serialised crash the process. The rule: nobody touches anything that ``pkcs11`` returned without holding
``Pkcs11Module.lock``, look-ups and iterators included. A reinitialisation ends all sessions of the module;
``epoch`` tells their users. Only this module and pkcs11_hsm.py import ``pkcs11``.
"""

import ctypes
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Final

import pkcs11
from pkcs11 import TokenFlag

from kmsfs.errors import HsmUnavailableError, ModuleInvalidError, PinIncorrectError, TokenNotFoundError
from kmsfs.keystore.softhsm import locked

PIN_RETRY_S = 10.0  # how soon a PIN that the token refused is tried again

_SOFTHSM_CONF: Final = "SOFTHSM2_CONF"
_PIN_ERRORS: Final = (
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinLocked,
    pkcs11.PinExpired,
    pkcs11.UserPinNotInitialized,
)
GONE_ERRORS: Final = (
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.SlotIDInvalid,
    pkcs11.DeviceRemoved,
)


class _SoftHsmEnvironment:
    """The variable that SoftHSM reads when it is initialised: ours for embedded tokens, else the user's."""

    def __init__(self) -> None:
        self._users: str | None = None
        self._ours: str | None = None

    def apply(self, conf: Path | None) -> None:
        """Set the variable to ``conf``, or back to what the user had."""
        current = os.environ.get(_SOFTHSM_CONF)
        if current != self._ours:
            self._users = current
        self._ours = None if conf is None else str(conf)
        value = self._users if conf is None else self._ours
        if value is None:
            os.environ.pop(_SOFTHSM_CONF, None)
        else:
            os.environ[_SOFTHSM_CONF] = value


_environment = _SoftHsmEnvironment()


class Pkcs11Module:
    """The one owner of a module (a shared object) in this process. Hold ``lock`` around every call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = RLock()
        self.epoch = 0
        self._library: Any = None
        self._conf: Path | None = None
        self._sessions: dict[str, Any] = {}
        self._refused: dict[tuple[Path | None, str], tuple[bytes, float]] = {}
        self._users = 0
        self._forked = False
        self._is_alone = False

    def acquire(self) -> None:
        """Count one more user."""
        with self.lock:
            self._users += 1

    def release(self) -> None:
        """Count one user less; the last one's leaving finalises the module."""
        with self.lock:
            self._users -= 1
            if not self._users:
                self._finalize()

    def library(self, conf: Path | None) -> Any:
        """Return the initialised library; ``conf`` is SoftHSM's configuration for embedded tokens."""
        if self._forked:
            raise HsmUnavailableError(
                f"module {self.path} was initialised before the process forked",
                hint="start the command again",
            )
        if self._library is None or self._conf != conf:
            self._finalize()
            with self.alone(conf):
                self._initialize(conf)
        return self._library

    @contextmanager
    def alone(self, conf: Path | None) -> Iterator[None]:
        """Hold back the other processes that start, log in, or make and destroy keys in the same embedded tokens.

        SoftHSM writes a token's files at each of these, and a process that starts meanwhile does not see the token.
        """
        if conf is None or self._is_alone:
            yield
            return
        with locked(conf.parent):
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def reinitialize(self, conf: Path | None) -> None:
        """End all sessions of the module, in all its tokens, and start it afresh."""
        self._finalize()
        self.library(conf)

    def session(self, label: str, conf: Path | None, pin: Callable[[], str]) -> Any:
        """Return the logged-in session of the token, which all its users in this process share."""
        library = self.library(conf)
        if label not in self._sessions:
            with self.alone(conf):
                self._sessions[label] = self._open(self.find_token(library, label), (conf, label), pin())
        return self._sessions[label]

    def find_token(self, library: Any, label: str) -> Any:
        """Return the initialised token of that label."""
        found = _labelled(library, label)
        if len(found) != 1:
            count = "no token" if not found else f"{len(found)} tokens"
            raise TokenNotFoundError(
                f"{count} labelled {label!r} in module {self.path}",
                hint="connect the token, or check its label",
            )
        return found[0]

    def mark_forked(self) -> None:
        """In a forked child: its copy of an initialised module must not be used."""
        self.lock = RLock()  # another thread of the parent may have held it
        if self._library is not None:
            self._forked = True
            self.epoch += 1

    def _open(self, token: Any, place: tuple[Path | None, str], pin: str) -> Any:
        # Tokens lock or slow down after a few wrong PINs: one that was refused is not tried again at once.
        digest = hashlib.sha256(pin.encode()).digest()
        refused, when = self._refused.get(place, (b"", 0.0))
        if refused == digest and time.monotonic() - when < PIN_RETRY_S:
            raise _pin_refused(place[1])
        try:
            session = token.open(rw=True, user_pin=pin)
        except _PIN_ERRORS as error:
            self._refused[place] = digest, time.monotonic()
            raise _pin_refused(place[1], type(error).__name__) from error
        self._refused.pop(place, None)
        return session

    def _initialize(self, conf: Path | None) -> None:
        _environment.apply(conf)
        try:
            self._library = pkcs11.lib(str(self.path))
        except pkcs11.PKCS11Error as error:
            if "while loading" in str(error):
                raise ModuleInvalidError(
                    f"{self.path} is no PKCS#11 module", hint="check the path given with --module"
                ) from error
            raise HsmUnavailableError(f"module {self.path} does not start: {reason(error)}") from error
        self._conf = conf

    def _finalize(self) -> None:
        self.epoch += 1
        self._sessions.clear()
        library, self._library = self._library, None
        if library is not None and not self._forked:
            with suppress(pkcs11.PKCS11Error):  # whatever it says, the sessions are over
                library.finalize()


_modules: dict[Path, Pkcs11Module] = {}  # C_Initialize is per process, so its owner is too
_modules_lock = Lock()


def module_at(path: Path) -> Pkcs11Module:
    """Return the owner of the module at ``path``; does not load it."""
    resolved = path.resolve()
    if not resolved.is_file():
        raise ModuleInvalidError(f"module {path} does not exist", hint="check the path given with --module")
    with _modules_lock:
        return _modules.setdefault(resolved, Pkcs11Module(resolved))


def _after_fork_in_child() -> None:
    for module in _modules.values():
        module.mark_forked()


os.register_at_fork(after_in_child=_after_fork_in_child)


def init_softhsm_token(module: Pkcs11Module, conf: Path, label: str, *, so_pin: str, pin: str) -> None:
    """Initialise the free slot of an embedded SoftHSM as a token with both PINs.

    python-pkcs11 does not wrap C_InitToken, and softhsm2-util would take the PINs on its command line.
    """
    with module.lock, module.alone(conf):
        library = module.library(conf)
        try:
            before = {token.serial for token in _tokens(library)}
            _initialize_free_slot(module, library, label, so_pin)
            (token,) = [token for token in _tokens(library) if token.serial not in before]
            session = token.open(rw=True, so_pin=so_pin)
            session.init_pin(pin)
            session.close()
        except pkcs11.PKCS11Error as error:
            raise HsmUnavailableError(f"token {label} was not created: {reason(error)}") from error


def _initialize_free_slot(module: Pkcs11Module, library: Any, label: str, so_pin: str) -> None:
    slots = library.get_slots(token_present=True)
    free = [slot for slot in slots if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED]
    if not free:
        raise HsmUnavailableError(f"module {module.path} offers no free slot")
    raw = so_pin.encode()
    code = ctypes.CDLL(str(module.path)).C_InitToken(
        ctypes.c_ulong(free[0].slot_id), raw, ctypes.c_ulong(len(raw)), label.encode().ljust(32)
    )
    if code:
        raise HsmUnavailableError(f"token {label} was not created (PKCS#11 error 0x{code:x})")


def token_serial(module: Pkcs11Module, conf: Path, label: str) -> str | None:
    """Return the serial number of the token of that label, or None if there is none."""
    with module.lock:
        found = _labelled(module.library(conf), label)
    return found[0].serial.decode("ascii").strip() if found else None


def _labelled(library: Any, label: str) -> list[Any]:
    found = [token for token in _tokens(library) if token.label == label]
    # An interrupted set-up leaves a token without a user PIN: nobody can log in, so nothing is in it.
    return [token for token in found if token.flags & TokenFlag.USER_PIN_INITIALIZED]


def _tokens(library: Any) -> list[Any]:
    tokens = []
    for slot in library.get_slots(token_present=True):
        with suppress(*GONE_ERRORS):
            token = slot.get_token()
            if token.flags & TokenFlag.TOKEN_INITIALIZED:
                tokens.append(token)
    return tokens


def _pin_refused(label: str, why: str = "it was refused a moment ago") -> PinIncorrectError:
    return PinIncorrectError(
        f"token {label} refused the PIN: {why}", hint="correct the PIN file of the region"
    )


def reason(error: Exception) -> str:
    """Return what a PKCS#11 error says, or its name."""
    return str(error) or type(error).__name__

"""Users: the account's principals beside its root, and what their identity policies allow them.

Users belong to the account, rows to a region: every region holds its own copy, and a request is decided with
that of its region, so that whoever holds one region's token cannot make up an administrator of another. A
write that reached only some regions is completed by repeating it: one whose token is away stops none of the others.
"""

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    InvalidRequestError,
    KmsfsError,
    LimitExceededError,
    PrincipalNotFoundError,
    RegionNotFoundError,
)
from kmsfs.keystore.arn import ROOT, user_arn
from kmsfs.keystore.audits import Audits
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import UserEntry
from kmsfs.keystore.policy.document import PolicyKind, parse_policy
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.rows import identity_policy_id, identity_policy_values, user_values
from kmsfs.keystore.snapshot import Snapshot

DEFAULT_POLICY: Final = "default"
MAX_POLICIES: Final = 10
_USER_ID_PREFIX: Final = "AIDA"
_USER_ID_BYTES: Final = 10
_USER_NAME: Final = re.compile(r"[A-Za-z0-9_+=.@-]{1,64}")  # no comma, so that a mount option can name it
_POLICY_NAME: Final = re.compile(r"[A-Za-z0-9_+=.@-]{1,128}")


class Principals:
    """The users of one keystore. Thread-safe."""

    def __init__(
        self,
        services: Callable[[], Sequence[RegionService]],
        exclusive: Callable[[], AbstractContextManager[None]],
        audits: Audits,
    ) -> None:
        self._services = services
        self._exclusive = exclusive
        self._audits = audits

    def create(self, name: str) -> UserEntry:
        """Make a user in every region; one who is there is completed and returned."""
        check_user_name(name)
        services = self._services()
        if not services:
            raise RegionNotFoundError("no region is configured", hint="kmsfs region add REGION")
        with self._exclusive():
            found = _reloaded(services)
            user_id = _USER_ID_PREFIX + base64.b32encode(random_bytes(_USER_ID_BYTES)).decode()
            account = services[0].config.account
            new = UserEntry(name, user_id, user_arn(account, name), time.time())
            user = next((snapshot.users[name] for snapshot in found if name in snapshot.users), new)
            for service in services:
                if name not in service.snapshot.users:
                    row = user_values(service.config.region, user)
                    with self._audits.change(service, "iam:CreateUser", None, user=name):
                        service.ledger.commit(_always(Changes(puts=[("users", row)])))
            return services[0].snapshot.users[name]

    def list(self) -> list[UserEntry]:
        """Return the users of all regions, by name."""
        found: dict[str, UserEntry] = {}
        for service in self._services():
            found = {**service.snapshot.users, **found}
        return [found[name] for name in sorted(found)]

    def require(self, name: str) -> None:
        """Raise PrincipalNotFoundError unless the name is that of the root or of a user."""
        if name == ROOT:
            return
        snapshots, problem = self._answers()
        if not any(name in snapshot.users for snapshot in snapshots):
            raise problem or _no_user(name)

    def delete(self, name: str) -> None:
        """Remove a user with their access keys and policies from every region."""
        self._require_user(name)

        def decide(snapshot: Snapshot) -> Changes:
            keys = [entry.access_key_id for entry in snapshot.credentials.values() if entry.principal == name]
            policies = snapshot.identity_policies.get(name, ())
            return Changes(
                deletes=[
                    ("users", name),
                    *(("credentials", access_key_id) for access_key_id in keys),
                    *(("identity_policies", identity_policy_id(name, policy)) for policy in policies),
                ]
            )

        self._commit_everywhere("iam:DeleteUser", decide, user=name)

    # --- identity policies ----------------------------------------------------------------------
    def put_policy(self, name: str, document: str, *, policy: str = DEFAULT_POLICY) -> None:
        """Attach a policy to a user, or replace the one of that name."""
        self._require_user(name)
        if not _POLICY_NAME.fullmatch(policy):
            raise InvalidRequestError(f"policy name {policy!r} is malformed", hint=_NAME_HINT)
        parse_policy(document, PolicyKind.IDENTITY)

        def decide(snapshot: Snapshot) -> Changes:
            require_user(snapshot, name)
            if len({*snapshot.identity_policies.get(name, ()), policy}) > MAX_POLICIES:
                raise LimitExceededError(f"user {name} would have more than {MAX_POLICIES} policies")
            row = identity_policy_values(snapshot.region, name, policy, document)
            return Changes(puts=[("identity_policies", row)])

        self._commit_everywhere("iam:PutUserPolicy", decide, user=name, policy=policy)

    def policies(self, name: str) -> Mapping[str, str]:
        """Return the documents of a user's policies by name."""
        self._require_user(name)
        found: dict[str, str] = {}
        for service in self._services():
            found = {**service.snapshot.identity_policies.get(name, {}), **found}
        return found

    def delete_policy(self, name: str, *, policy: str = DEFAULT_POLICY) -> None:
        """Take a policy from a user."""
        self._require_user(name)
        snapshots, problem = self._answers()
        if not any(policy in snapshot.identity_policies.get(name, ()) for snapshot in snapshots):
            raise problem or PrincipalNotFoundError(
                f"user {name} has no policy {policy}", hint="kmsfs user policy list shows them"
            )
        decide = _always(Changes(deletes=[("identity_policies", identity_policy_id(name, policy))]))
        self._commit_everywhere("iam:DeleteUserPolicy", decide, user=name, policy=policy)

    # --- regions --------------------------------------------------------------------------------
    def copy_to(self, service: RegionService) -> None:
        """Give a new region the users and policies that the others have."""
        region = service.config.region
        users: dict[str, UserEntry] = {}
        policies: dict[tuple[str, str], str] = {}
        for other in self._services():
            if other is not service:
                users |= other.snapshot.users
                for name, found in other.snapshot.identity_policies.items():
                    policies |= {(name, policy): document for policy, document in found.items()}
        rows = [("users", user_values(region, user)) for user in users.values()]
        rows += [
            ("identity_policies", identity_policy_values(region, name, policy, document))
            for (name, policy), document in policies.items()
        ]
        if rows:
            service.ledger.commit(_always(Changes(puts=rows)))

    def _require_user(self, name: str) -> None:
        if name == ROOT:
            raise InvalidRequestError("the account's root is no user", hint="it has no identity policies")
        self.require(name)

    def _answers(self) -> tuple[Sequence[Snapshot], KmsfsError | None]:
        """Return what the regions hold that can answer, and why another one cannot."""
        snapshots: list[Snapshot] = []
        problem: KmsfsError | None = None
        for service in self._services():
            try:
                snapshots.append(service.snapshot)
            except KmsfsError as error:
                problem = problem or error
        return snapshots, problem

    def _commit_everywhere(self, action: str, decide: Callable[[Snapshot], Changes], **details: str) -> None:
        """Commit in every region that can; then raise why one could not, so that it is repeated there."""
        failures: list[KmsfsError] = []
        with self._exclusive():
            for service in self._services():
                try:
                    with self._audits.change(service, action, None, **details):
                        service.ledger.commit(decide)
                except KmsfsError as error:  # a right that is taken away goes where it can
                    failures.append(error)
        if failures:
            raise failures[0]


def require_user(snapshot: Snapshot, name: str) -> None:
    """Raise PrincipalNotFoundError unless the region has a user of that name."""
    if name not in snapshot.users:
        raise _no_user(name)


def _no_user(name: str) -> PrincipalNotFoundError:
    return PrincipalNotFoundError(f"user {name} does not exist", hint="kmsfs user list shows them")


def check_user_name(name: str) -> str:
    """Return ``name`` as a user's or raise."""
    if name == ROOT or not _USER_NAME.fullmatch(name):
        raise InvalidRequestError(f"user name {name!r} is malformed or reserved", hint=_NAME_HINT)
    return name


_NAME_HINT: Final = "up to 64 letters, digits and _+=.@- make a user's name, up to 128 a policy's"


def _reloaded(services: Iterable[RegionService]) -> list[Snapshot]:
    return [service.ledger.reload() for service in services]


def _always(changes: Changes) -> Callable[[Snapshot], Changes]:
    return lambda _: changes

"""The key management service on AWS's wire protocol.

A request is verified before it is parsed: a stranger does not learn what parses. What only uses a key of a fast
token is done at once, since a thread costs more than the token does; everything else runs in threads, so
that a slow token or a commit holds up no other client.
"""

import logging
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

import trio

from kmsfs.api.asking import Asker, Peer
from kmsfs.api.connection import Answer, Connection, Request
from kmsfs.api.dispatch import USES, carry_out
from kmsfs.api.limits import Limits, Throttle
from kmsfs.api.refusal import Refusal
from kmsfs.api.sigv4 import Credential, Verified, Verifier
from kmsfs.api.wire import CONTENT_TYPE, parse_request, render_answer, render_refusal
from kmsfs.errors import KmsfsError
from kmsfs.keystore.service import Keystore

Listener = trio.SocketListener | trio.SSLListener[trio.SocketStream]

REFRESH_S: Final = 0.5

_log = logging.getLogger(__name__)


class Server:
    """Answers requests for all regions of one keystore."""

    def __init__(self, keystore: Keystore, limits: Limits | None = None) -> None:
        self._keystore = keystore
        self._limits = limits or Limits()
        self._secrets = dict(keystore.credentials.secrets())
        self._fast: frozenset[str] = frozenset()  # regions; what they are is measured in the background
        self._verifier = Verifier(self._find_credential)
        self._workers = trio.CapacityLimiter(self._limits.workers)
        self._places = trio.Semaphore(self._limits.connections)
        self._requests = Throttle(self._limits.requests_per_s, trio.current_time)
        self._failures = Throttle(self._limits.failures_per_s, trio.current_time)
        self._connections: set[Connection] = set()
        self._failing: dict[str, str] = {}  # what cannot be read, and why
        self._accepting = trio.CancelScope()
        self._clients = trio.CancelScope()

    def stop(self) -> None:
        """Accept nothing more, finish what is under way, and let ``run`` return; asked again, finish nothing."""
        if self._accepting.cancel_called:
            self._clients.cancel()
        self._accepting.cancel()

    async def run(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop``."""
        async with trio.open_nursery() as background:
            background.start_soon(self._follow_changes)
            with self._clients:
                async with trio.open_nursery() as clients:
                    with self._accepting:
                        task_status.started()
                        await trio.serve_listeners(self._handle, list(listeners), handler_nursery=clients)
                    self._clients.deadline = trio.current_time() + self._limits.drain_s
                    for connection in self._connections:
                        connection.drain()
            background.cancel_scope.cancel()

    async def _handle(self, stream: trio.abc.Stream) -> None:
        if self._places.statistics().tasks_waiting >= self._limits.connections:
            # Each that waits has a descriptor, and the token and the metadata need some, too.
            await trio.aclose_forcefully(stream)
            return
        peer = Peer(_address(stream), isinstance(stream, trio.SSLStream))
        respond = partial(self._respond, peer)
        connection = Connection(
            stream, self._limits, respond, lambda refusal: _refused(refusal, _new_id()), self._is_crowded
        )
        try:
            self._make_room()
            async with self._places:
                self._connections.add(connection)
                if self._accepting.cancel_called:
                    return
                if isinstance(stream, trio.SSLStream):
                    with trio.fail_after(self._limits.header_s):
                        await stream.do_handshake()
                await connection.serve()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # no TLS, or no patience
        except Exception as error:
            _log.error("a connection failed: %s", _frames(error))
        finally:
            self._connections.discard(connection)

    def _is_crowded(self) -> bool:
        return self._places.statistics().tasks_waiting > 0

    def _make_room(self) -> None:
        """If all places are taken, close the connection that has been idle longest: a client can make another."""
        idle = [connection for connection in self._connections if connection.idle_since is not None]
        if not self._places.value and idle:
            min(idle, key=lambda connection: connection.idle_since or 0.0).drain()

    async def _respond(self, peer: Peer, request: Request) -> Answer:
        request_id = _new_id()
        try:
            output = await self._carry_out(peer, request, request_id)
        except Refusal as refusal:
            if refusal.status >= 500:
                _log.error("request %s: %s", request_id, refusal.__cause__)
            return _refused(refusal, request_id)
        except Exception as error:
            _log.error("request %s failed: %s", request_id, _frames(error))
            internal = Refusal(
                "KMSInternalException",
                "The request was rejected because of an internal failure.",
                status=500,
            )
            return _refused(internal, request_id)
        return _answer(200, output, request_id)

    async def _carry_out(self, peer: Peer, request: Request, request_id: str) -> bytes:
        if request.method != "POST" or request.target != "/":
            raise Refusal("UnknownOperationException", "", status=404)
        verified = self._verify(peer.address, request)
        if not self._requests.take(verified.access_key_id):
            raise Refusal("ThrottlingException", "Rate exceeded")
        named = dict(request.headers)
        target = named.get(b"x-amz-target", b"").decode("latin-1")
        content_type = named.get(b"content-type", b"").decode("latin-1")
        call = parse_request(target, content_type, request.body)
        user_agent = named.get(b"user-agent", b"").decode("latin-1")
        asker = Asker(verified.access_key_id, verified.region, request_id, peer, user_agent)
        work = partial(carry_out, self._keystore, asker, call)
        if call.action in USES and verified.region in self._fast:
            return render_answer(work())
        return render_answer(await trio.to_thread.run_sync(work, limiter=self._workers))

    def _verify(self, address: str, request: Request) -> Verified:
        try:
            return self._verifier.verify(request.headers, request.body, now=datetime.now(UTC))
        except Refusal:
            # Only who fails is slowed down: another client behind the same address is not.
            if not self._failures.take(address):
                raise Refusal("ThrottlingException", "Rate exceeded") from None
            raise

    def _find_credential(self, access_key_id: str, region: str) -> Credential | None:
        secret = self._secrets.get((access_key_id, region))
        return None if secret is None else Credential(access_key_id, secret)

    async def _follow_changes(self) -> None:
        """Keep up with the metadata, so that no request has to, and keep the audit log durable."""
        while True:
            await trio.to_thread.run_sync(self._tend)
            await trio.sleep(REFRESH_S)

    def _tend(self) -> None:
        with self._told_once("the metadata"):  # of one region: the others are served
            self._keystore.refresh()
        fast: frozenset[str] = frozenset()
        with self._told_once("the access keys"):
            self._secrets = dict(self._keystore.credentials.secrets())
            fast = self._keystore.fast_regions()
        self._fast = fast
        self._keystore.audits.tend()

    @contextmanager
    def _told_once(self, what: str) -> Iterator[None]:
        """Log a failure when it begins and when it ends: it is met twice a second."""
        reason = ""
        try:
            yield
        except KmsfsError as error:
            reason = str(error)
        before, self._failing[what] = self._failing.get(what, ""), reason
        if reason and reason != before:
            _log.error("%s cannot be read: %s", what, reason)
        elif before and not reason:
            _log.info("%s can be read again", what)


def _answer(status: int, body: bytes, request_id: str) -> Answer:
    return Answer(status, [("Content-Type", CONTENT_TYPE), ("x-amzn-RequestId", request_id)], body)


def _refused(refusal: Refusal, request_id: str) -> Answer:
    return _answer(refusal.status, render_refusal(refusal), request_id)


def _new_id() -> str:
    return str(uuid.uuid4())


def _frames(error: BaseException) -> str:
    """Return where an error came from, without its message: it may quote a plaintext."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + ", ".join(f"{frame.name}:{frame.lineno}" for frame in frames)


def _address(stream: trio.abc.Stream) -> str:
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with suppress(OSError):
        if isinstance(transport, trio.SocketStream):
            return str(transport.socket.getpeername()[0])
    return ""

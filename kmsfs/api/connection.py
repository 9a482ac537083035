"""One client's connection: HTTP/1.1 through h11 on a trio stream, every step bounded in size and time.

After anything that is not clean HTTP the connection is answered once and closed: what follows in it could be
read in two ways.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

import h11
import trio

from kmsfs.api.limits import Limits
from kmsfs.api.refusal import Refusal

_CHUNK: Final = 64 << 10
_VERSIONS: Final = (b"1.1", b"1.0")
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request; header names are in lower case."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)


class Connection:
    """Reads requests and writes answers until one side has had enough."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        limits: Limits,
        respond: Callable[[Request], Awaitable[Answer]],
        refuse: Callable[[Refusal], Answer],
        crowded: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._respond = respond
        self._refuse = refuse
        self._crowded = crowded  # whether others wait for a place
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._idle = trio.CancelScope()
        self.idle_since: float | None = trio.current_time()  # while it waits for a request
        self._draining = False
        self._method = b""

    def drain(self) -> None:
        """Finish the request under way, if there is one, and close."""
        self._draining = True
        self._idle.cancel()

    async def serve(self) -> None:
        """Serve the connection to its end."""
        try:
            while not self._draining and await self._data_arrives():
                if not await self._exchange():
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return  # the client went away, or would not take its answer

    async def _data_arrives(self) -> bool:
        """Wait for the first bytes of a request; return False when none come."""
        if self._http.trailing_data[0]:
            return True
        data = b""
        with trio.CancelScope() as self._idle:
            self.idle_since = trio.current_time()
            self._idle.deadline = self.idle_since + self._limits.idle_s
            data = bytes(await self._stream.receive_some(_CHUNK))
        self.idle_since = None
        if data:
            self._http.receive_data(data)
        return bool(data)

    async def _exchange(self) -> bool:
        """Read one request and answer it; return whether another may follow."""
        self._method = b""
        try:
            request = await self._read_request()
            answer = await self._respond(request) if request else None
        except Refusal as refusal:
            answer = self._refuse(refusal)
        if answer is None:
            return False
        clean = self._http.their_state is h11.DONE and not self._draining and not self._crowded()
        await self._write(answer, close=not clean)
        if not clean or self._http.our_state is not h11.DONE:
            await self._linger()
            return False
        self._http.start_next_cycle()
        return True

    async def _read_request(self) -> Request | None:
        try:
            with trio.fail_after(self._limits.header_s):
                head = await self._next_event()
            if not isinstance(head, h11.Request):
                return None
            self._method = head.method
            self._check_head(head)
            with trio.fail_after(self._limits.body_s):
                body = await self._read_body(head)
        except h11.RemoteProtocolError as error:
            _not_http(error.error_status_hint)
        except trio.TooSlowError:
            raise Refusal("RequestTimeoutException", "The request took too long.", status=408) from None
        return Request(head.method.decode(), head.target.decode("latin-1"), list(head.headers), body)

    def _check_head(self, head: h11.Request) -> None:
        """Refuse what h11 lets pass: of any size if it comes at once, and of any version."""
        if head.http_version not in _VERSIONS:
            _not_http(505)
        size = len(head.target)
        framing = 0
        for name, value in head.headers:
            size += len(name) + len(value) + 4
            framing += name in _FRAMING
        if size > self._limits.header_bytes:
            _not_http(431)
        if framing > 1:  # a length and chunks: where the body ends could be read in two ways
            _not_http(400)

    async def _read_body(self, head: h11.Request) -> bytes:
        declared = next((value for name, value in head.headers if name == b"content-length"), b"0")
        self._check_size(int(declared))
        if self._http.they_are_waiting_for_100_continue:
            proceed = h11.InformationalResponse(status_code=100, headers=[])
            await self._stream.send_all(self._http.send(proceed) or b"")
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            self._check_size(len(body))
        return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise Refusal("RequestEntityTooLargeException", "The request body is too large.", status=413)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(_CHUNK)))
        return event

    async def _write(self, answer: Answer, *, close: bool) -> None:
        headers = [*answer.headers, ("Content-Length", str(len(answer.body)))]
        if close:
            headers.append(("Connection", "close"))
        parts: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers)]
        # The answer to HEAD tells the length of a body that does not follow.
        parts += [h11.Data(data=b"" if self._method == b"HEAD" else answer.body), h11.EndOfMessage()]
        data = b"".join(self._http.send(part) or b"" for part in parts)
        with trio.fail_after(self._limits.answer_s):
            await self._stream.send_all(data)

    async def _linger(self) -> None:
        """Read what the client still sends: closing at once would reset it before it sees the answer."""
        with trio.move_on_after(self._limits.linger_s):
            if isinstance(self._stream, trio.SocketStream):
                await self._stream.send_eof()
            while await self._stream.receive_some(_CHUNK):
                pass


def _not_http(status: int) -> NoReturn:
    raise Refusal("SerializationException", "The request is not valid HTTP.", status=status) from None

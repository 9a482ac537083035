"""A refusal that the protocol itself makes, before any key is asked for."""


class Refusal(Exception):  # noqa: N818 - a request is refused; nothing is wrong with the server
    """An AWS error by its name on the wire; it never leaves kmsfs.api.

    The message is AWS's, with its capitals and full stops: clients and their users search for it.
    """

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status

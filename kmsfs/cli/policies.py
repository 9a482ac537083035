"""What the commands about policies and grants take in: documents from files or stdin, principals by name."""

import sys
from pathlib import Path
from typing import Final

import click

from kmsfs.cli.options import Decorator
from kmsfs.errors import UsageError
from kmsfs.keystore.arn import principal_arn

DEFAULT_POLICY: Final = "default"
_FILE: Final = click.Path(path_type=Path, allow_dash=True)
_LIMIT: Final = 1 << 20  # far beyond any policy: the keystore says what is too long


def policy_argument() -> Decorator:
    """The positional FILE: the parameter ``file``, ``-`` for stdin."""
    return click.argument("file", metavar="FILE", type=_FILE)


def policy_option() -> Decorator:
    """``--policy FILE``: the parameter ``file``, None when not given."""
    return click.option("--policy", "file", metavar="FILE", type=_FILE, help="An identity policy, JSON.")


def policy_name_option() -> Decorator:
    """``--policy-name NAME``: the parameter ``policy_name``."""
    return click.option(
        "--policy-name", metavar="NAME", default=DEFAULT_POLICY, help=f"Which policy [{DEFAULT_POLICY}]."
    )


def read_policy(file: Path) -> str:
    """Return the document in ``file``."""
    if str(file) == "-":
        content, name = sys.stdin.buffer.read(_LIMIT), "stdin"
    else:
        with file.open("rb") as opened:
            content, name = opened.read(_LIMIT), str(file)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is no text", hint="a policy is JSON in UTF-8") from None


def named_principal(account: str, text: str) -> str:
    """Return the ARN of a principal that is named by its ARN, or as a user or ``root`` of this account."""
    return text if text.startswith("arn:") else principal_arn(account, text)

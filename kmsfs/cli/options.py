"""Options that several commands share, so that they read and behave alike."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def json_option() -> Decorator:
    """``--json``: the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def region_option(
    text: str = "Region of the key; may be left out when one region is configured.",
) -> Decorator:
    """``--region``: the parameter ``region``, None when not given."""
    return click.option("--region", metavar="REGION", help=text)


def key_argument() -> Decorator:
    """The positional KEY: a key ARN, alias ARN, alias/NAME or key id."""
    return click.argument("key", metavar="KEY")


def touch_option() -> Decorator:
    """``--touch``: the parameter ``touch``."""
    return click.option(
        "--touch",
        is_flag=True,
        help="Move the modification time of changed files on by a second, for backups that go by it.",
    )

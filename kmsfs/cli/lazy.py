"""Groups whose commands are imported when they are run, not when help is shown.

The table of a group holds each command's module and its one line of help, so that listing
commands imports none of them. A test compares the lines with the commands' own.
"""

from collections.abc import Mapping
from importlib import import_module

import click


class LazyGroup(click.Group):
    """A group built from a table ``name -> (module, help line)``.

    The module's attribute ``command`` is the click command.
    """

    def __init__(self, name: str, *, table: Mapping[str, tuple[str, str]], help: str) -> None:  # noqa: A002
        super().__init__(name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order, which is the order of use."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its command."""
        if cmd_name not in self.table:
            return None
        command = import_module(self.table[cmd_name][0]).command
        assert isinstance(command, click.Command)  # noqa: S101 - the module broke its contract
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])


class OrderedGroup(click.Group):
    """An ordinary group that lists its commands in the order they are written in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names as defined: create comes before what can be done to the created."""
        return list(self.commands)


def help_group(name: str, text: str) -> click.Group:
    """Return the group for the module of one command group."""
    return OrderedGroup(name, help=text, context_settings={"help_option_names": ["-h", "--help"]})

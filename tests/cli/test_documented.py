"""docs/cli.md and the code name the same commands, options and exit codes."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.cli.main import cli
from kmsfs.cli.mount_plan import KNOWN_OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands that do something, each under all its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(leaves(cli, "kmsfs"))


def synopsis(name: str, command: click.Command) -> str:
    arguments = [
        parameter.make_metavar(click.Context(command))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    return " ".join((name, *arguments))


def options(command: click.Command) -> set[str]:
    return {
        name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts
    }


def sections() -> dict[str, str]:
    parts = re.split(r"^### `(.+)`$", PAGE, flags=re.MULTILINE)
    return dict(
        zip(
            parts[1::2], (re.split(r"^## ", part, flags=re.MULTILINE)[0] for part in parts[2::2]), strict=True
        )
    )


def test_the_page_has_a_section_for_every_command_and_no_other() -> None:
    assert list(sections()) == [synopsis(name, command) for name, command in COMMANDS.items()]


def test_every_section_has_a_row_for_every_option_and_no_other() -> None:
    for name, command in COMMANDS.items():
        section = sections()[synopsis(name, command)]
        rows = re.findall(r"^\| `(-{1,2}[a-z-]+)(?: [^`]+)?` \|", section, re.MULTILINE)
        assert set(rows) == options(command), name


def test_every_mount_option_has_its_row() -> None:
    section = sections()["kmsfs mount TREE MOUNTPOINT"]
    cells = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", section, re.MULTILINE)
    assert {name.strip("`") for cell in cells for name in cell.split(", ")} == set(KNOWN_OPTIONS)


def test_the_exit_code_table_is_the_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [(int(code), code.label) for code in ExitCode]

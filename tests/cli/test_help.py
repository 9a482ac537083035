"""Help: everywhere, with an example, and cheap."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from testkit.home import Home

from kmsfs.cli.lazy import LazyGroup
from kmsfs.cli.main import TABLE, cli

HEAVY = ("pkcs11", "sqlalchemy", "pyfuse3", "trio", "cryptography")


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group below ``group`` with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = dict(commands(cli))


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_every_help_shows_an_example(path: tuple[str, ...], empty_home: Home) -> None:
    said = empty_home.ok(*path, "--help")
    assert said.startswith(f"Usage: {' '.join(('kmsfs', *path))}")
    assert "Example:\n" in said
    assert f"    {' '.join(('kmsfs', *path))}" in said
    assert not empty_home.path.exists()


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_no_help_loads_anything_heavy(path: tuple[str, ...]) -> None:
    script = (
        "import sys\n"
        "from kmsfs.cli.boundary import run\n"
        "from kmsfs.cli.main import cli\n"
        f"assert run(cli, {[*path, '--help']!r}) == 0\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", list(TABLE))
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    assert isinstance(cli, LazyGroup)
    help_text = ALL[(name,)].help
    assert help_text is not None
    assert help_text.strip().splitlines()[0] == TABLE[name][1]


def test_every_option_explains_itself() -> None:
    for path, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_no_command_is_a_usage_error(empty_home: Home) -> None:
    done = empty_home.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: kmsfs")


def test_version(empty_home: Home) -> None:
    assert empty_home.ok("--version") == "kmsfs 0.1.0\n"

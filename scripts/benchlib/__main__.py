"""The command line of scripts/bench. Each command is a module with ``add_parser`` and ``run``."""

import argparse
import subprocess
import sys

from benchlib import files, kms, memory, migrate

COMMANDS = {"files": files, "kms": kms, "memory": memory, "migrate": migrate}


def main(argv: list[str]) -> int:
    # Without a command the file system is measured: the comparison most readers want.
    if not argv or (argv[0] not in COMMANDS and argv[0] not in ("-h", "--help")):
        argv = ["files", *argv]
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure kmsfs on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_parser(commands, name)
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command].run(args)
    except subprocess.CalledProcessError as error:
        print(f"bench: {error}\n{error.stderr or ''}".rstrip(), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

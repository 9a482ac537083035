#!/usr/bin/env python3
"""Migrate several trees to keys of another region, one after the other, as a plan file says.

    scripts/migrate_region.py PLAN [--dry-run] [--report FILE]

The plan is TOML:

    home = "/srv/kmsfs"        # optional: KMSFS_HOME
    rate = 2000                # optional: at most so many HSM calls a second
    touch = false              # optional: move modification times on by a second

    [[trees]]
    path = "/srv/trees/a"      # a tree or a mount
    to_key = "arn:aws:kms:us-east-1:000000000000:key/..."
    reencrypt = false          # optional: new data keys and ciphertext
    copy_to = "/mnt/new/a"     # optional: migrate a copy that is made there

What was begun is resumed; a tree that fails does not stop the others. The report is JSON, and names the signed report
of each tree's migration. Exit code 0: every tree is migrated, reported and verified; 37: files were left behind; 1: a
tree could not be migrated, or its migration not be reported; 2: the plan is wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KMSFS = ROOT / ".venv" / "bin" / "kmsfs"
INCOMPLETE = 37
KNOWN = {"home": (str,), "rate": (int, float), "touch": (bool,), "trees": (list,)}
OF_TREE = {"path": str, "to_key": str, "reencrypt": bool, "copy_to": str}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--report", type=Path, help="where the report goes [standard output]")
    args = parser.parse_args(argv)
    try:
        plan = read_plan(args.plan)
    except (OSError, ValueError) as error:
        print(f"migrate_region: {args.plan}: {error}", file=sys.stderr)
        return 2
    results = [migrate(tree, plan, dry_run=args.dry_run) for tree in plan["trees"]]
    text = json.dumps({"trees": results}, indent=2) + "\n"
    if args.report is None:
        sys.stdout.write(text)
    else:
        args.report.write_text(text)
    codes = [result["exit_code"] for result in results]
    if any(code not in (0, INCOMPLETE) for code in codes):
        return 1
    return max(codes, default=0)


def read_plan(path: Path) -> dict[str, Any]:
    """Return the plan, or raise ValueError with what is wrong with it."""
    with path.open("rb") as file:
        plan = tomllib.load(file)
    if unknown := plan.keys() - KNOWN.keys():
        raise ValueError(f"unknown entry {sorted(unknown)[0]}")
    for name, value in plan.items():
        if type(value) not in KNOWN[name]:  # true is no rate, and 'false' would be true
            raise ValueError(f"{name} is {value!r}")
    trees = plan.get("trees")
    if not isinstance(trees, list) or not trees:
        raise ValueError("no [[trees]]")
    for tree in trees:
        if not isinstance(tree, dict) or not {"path", "to_key"} <= tree.keys() <= OF_TREE.keys():
            raise ValueError("each of the trees has a path and a to_key, perhaps reencrypt and copy_to")
        for name, value in tree.items():
            if not isinstance(value, OF_TREE[name]):
                raise ValueError(f"{name} of a tree is {value!r}")
    return plan


def migrate(tree: dict[str, Any], plan: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Plan, or migrate and verify, one tree; return its part of the report."""
    target = ("--to-key", tree["to_key"])
    options = [f"--rate={plan['rate']}"] if "rate" in plan else []
    if plan.get("touch"):
        options.append("--touch")
    if tree.get("reencrypt"):
        options.append("--reencrypt")
    copying = ["--copy-to", tree["copy_to"]] if "copy_to" in tree else []
    result: dict[str, Any] = {**tree, "exit_code": 0}
    path, migrated = tree["path"], tree.get("copy_to", tree["path"])
    steps = {"verification": (migrated, "--verify")}
    if dry_run:
        steps = {"plan": (path, *copying, "--dry-run")}
    elif not (copying and is_copied(tree, plan)):
        steps = {"migration": (path, *copying, *options), **steps}
    for name, arguments in steps.items():
        done = run(plan, "migrate", *arguments, *target, "--json")
        result[name] = json.loads(done.stdout) if done.stdout else None
        if done.returncode:
            if not result["exit_code"]:  # what went wrong first counts
                result["exit_code"] = done.returncode
                result["error"] = done.stderr.strip()
            print(f"migrate_region: {tree['path']}: {done.stderr.strip()}", file=sys.stderr)
            if not (result[name] and result[name].get("complete")):  # else only its report is missing
                break
    return result


def is_copied(tree: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether the copy of a tree was made, migrated and reported before."""
    if (Path(tree["copy_to"]) / "kmsfs.copying").exists():
        return False
    done = run(plan, "migrate", tree["copy_to"], "--status", "--json")
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    return told.get("state") == "done" and told["copy_of"] == os.path.realpath(tree["path"])


def run(plan: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run kmsfs."""
    env = {**os.environ, **({"KMSFS_HOME": plan["home"]} if "home" in plan else {})}
    return subprocess.run([KMSFS, *arguments], env=env, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""scripts/migrate_region.py: several trees from one plan."""

import json
import subprocess
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home
from testkit.tokens import build_shim, make_softhsm, make_token
from testkit.tool_trees import slot_keys

SCRIPT = Path(__file__).parents[2] / "scripts" / "migrate_region.py"
US = "us-east-1"


def run(home: Home, plan: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, plan, *options], env=home.env(), capture_output=True, text=True, check=False
    )


def test_trees_are_migrated_one_after_the_other(home: Home, us_key: str, tmp_path: Path) -> None:
    trees = [tmp_path / "a", tmp_path / "b"]
    text = "rate = 5000\n"
    for tree in trees:
        home.ok("init", tree, "--key", ALIAS, "--region", "eu-west-1")
        text += f'[[trees]]\npath = "{tree}"\nto_key = "{us_key}"\n'
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    planned = run(home, plan, "--dry-run")
    assert planned.returncode == 0, planned
    assert [tree["plan"]["files"] for tree in json.loads(planned.stdout)["trees"]] == [0, 0]
    report = tmp_path / "report.json"
    assert run(home, plan, "--report", str(report)).returncode == 0
    told = json.loads(report.read_text())["trees"]
    assert [tree["migration"]["complete"] for tree in told] == [True, True]
    assert [tree["verification"]["failed"] for tree in told] == [[], []]
    for tree in told:
        assert home.json("report", "verify", tree["migration"]["report"])["tree"] == tree["path"]
    assert all(home.json("info", tree)["default_key_arn"] == us_key for tree in trees)
    assert slot_keys(trees[0]) == set()


def test_a_copy_is_made_once(home: Home, us_key: str, tmp_path: Path) -> None:
    tree, copy, plan = tmp_path / "a", tmp_path / "copy", tmp_path / "plan.toml"
    home.ok("init", tree, "--key", ALIAS, "--region", "eu-west-1")
    plan.write_text(
        f'[[trees]]\npath = "{tree}"\nto_key = "{us_key}"\ncopy_to = "{copy}"\nreencrypt = true\n'
    )
    assert run(home, plan, "--dry-run").returncode == 0
    assert not copy.exists()
    for again in (False, True):
        done = run(home, plan)
        assert done.returncode == 0, done
        (told,) = json.loads(done.stdout)["trees"]
        assert ("migration" not in told) is again
        assert told["verification"]["failed"] == []
    assert home.json("report", "create", copy)["reencrypt"]
    assert home.json("info", copy)["default_key_arn"] == us_key
    assert home.json("info", tree)["default_key_arn"] != us_key


def test_a_tree_that_fails_does_not_stop_the_others(home: Home, us_key: str, tmp_path: Path) -> None:
    home.ok("init", tmp_path / "b", "--key", ALIAS, "--region", "eu-west-1")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        "".join(f'[[trees]]\npath = "{tmp_path / name}"\nto_key = "{us_key}"\n' for name in ("nothing", "b"))
    )
    done = run(home, plan)
    assert done.returncode == 1
    told = json.loads(done.stdout)["trees"]
    assert [tree["exit_code"] for tree in told] == [30, 0]
    assert "nothing is no directory" in done.stderr


def test_a_migration_that_cannot_be_reported_is_verified_all_the_same(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    monkeypatch.setenv("KMSFS_SHIM", "no-ec")
    shim, pin_file = build_shim(tmp_path, beside_softhsm=True), make_token(conf, "own")
    home.ok("region", "add", US, "--module", shim, "--token", "own", "--pin-file", pin_file)
    key = home.json("key", "create", "--region", US)["Arn"]
    home.ok("init", tmp_path / "a", "--key", ALIAS, "--region", "eu-west-1")
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[[trees]]\npath = "{tmp_path / "a"}"\nto_key = "{key}"\n')
    done = run(home, plan)
    assert done.returncode == 1
    (told,) = json.loads(done.stdout)["trees"]
    assert (told["exit_code"], told["migration"]["complete"], told["migration"]["report"]) == (16, True, None)
    assert "cannot sign reports" in told["error"]
    assert told["verification"]["failed"] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trees = 3",
        "[[trees]]\npath = 'x'",
        "[[trees]]\npath = 'x'\nto_key = 3",
        "speed = 1\n[[trees]]",
        "touch = 'false'\n[[trees]]\npath = 'x'\nto_key = 'y'",
        "rate = true\n[[trees]]\npath = 'x'\nto_key = 'y'",
        "home = 3\n[[trees]]\npath = 'x'\nto_key = 'y'",
        "not toml",
    ],
)
def test_a_plan_that_is_wrong(home: Home, tmp_path: Path, text: str) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    done = run(home, plan)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"migrate_region: {plan}: ")

"""``scripts/bench kms``: the key service beside moto_server, and the keystore beside its bare module (kms_inside.py).

Every request to kmsfs is authenticated, authorised, audited and goes to the token; moto_server does none of it.
Both are asked by the same boto3 clients, in turn, in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchlib.kms_inside import compare_in_process
from benchlib.results import Comparison, machine, table

REGION = "us-east-1"
ACTIONS = ("Decrypt", "GenerateDataKey")
ROOT = Path(__file__).resolve().parents[2]
MOTO = ROOT / ".venv-moto" / "bin"
SERVER_BUDGET = 1.0


def add_parser(commands: "argparse._SubParsersAction", name: str) -> None:
    parser = commands.add_parser(name, help="the key service beside moto_server")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200, help="by each client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(args: argparse.Namespace) -> int:
    about = machine()
    with tempfile.TemporaryDirectory(prefix="kmsfs-bench-") as temporary, ExitStack() as stack:
        home = Path(temporary, "home")
        endpoints = {
            "kmsfs": stack.enter_context(_kmsfs(home)),
            "moto": stack.enter_context(_moto()),
        }
        compared = [_compare_servers(endpoints, action, args) for action in ACTIONS]
        inside = compare_in_process(home, 3 * args.rounds)
    print(table(compared))
    print(table(inside))
    if args.json:
        figures = {"machine": about, "results": [row.as_json() for row in (*compared, *inside)]}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _compare_servers(
    endpoints: dict[str, tuple[str, dict[str, str], str]], action: str, args: argparse.Namespace
) -> Comparison:
    seconds: dict[str, list[float]] = {system: [] for system in endpoints}
    for _ in range(args.rounds):
        for system, (endpoint, env, key_id) in endpoints.items():
            seconds[system].append(_burst(endpoint, env, key_id, action, args))
    name = f"{action}, {args.clients} boto3 clients, {args.clients * args.requests} requests"
    return Comparison(name, SERVER_BUDGET, seconds)


def _burst(endpoint: str, env: dict[str, str], key_id: str, action: str, args: argparse.Namespace) -> float:
    """Return how long it takes until the last of all clients has its last answer."""
    program = Path(__file__).with_name("kms_client.py")
    command = [MOTO / "python", program, endpoint, key_id, action, str(args.requests)]
    clients = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(args.clients)
    ]
    try:
        for client in clients:
            _expect(client, "ready")
        start = time.perf_counter()
        for client in clients:
            client.stdin.write("go\n")
            client.stdin.flush()
        for client in clients:
            _expect(client, "done")
        return time.perf_counter() - start
    finally:
        for client in clients:
            client.communicate()


def _expect(client: subprocess.Popen, word: str) -> None:
    if client.stdout.readline().strip() != word:
        raise SystemExit("bench: a client failed; see above")


def _client_env(access_key_id: str, secret: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextmanager
def _kmsfs(home: Path) -> Iterator[tuple[str, dict[str, str], str]]:
    env = {**os.environ, "KMSFS_HOME": str(home)}
    kmsfs = Path(sys.executable).with_name("kmsfs")

    def ask(*arguments: str) -> dict:
        done = subprocess.run([kmsfs, *arguments, "--json"], env=env, check=True, capture_output=True)
        return json.loads(done.stdout)

    ask("region", "add", REGION)
    key_id = ask("key", "create", "--region", REGION, "--alias", "alias/bench")["KeyId"]
    credential = ask("credential", "create", "root")
    command = [kmsfs, "serve", "--bind", "127.0.0.1:0"]
    with _server(command, env, "serving on ") as url:
        yield url, _client_env(credential["AccessKeyId"], credential["SecretAccessKey"]), key_id


@contextmanager
def _moto() -> Iterator[tuple[str, dict[str, str], str]]:
    env = _client_env("bench", "bench")
    command = [MOTO / "moto_server", "-H", "127.0.0.1", "-p", "0"]
    with _server(command, env, "Running on ") as url:
        create = (
            "import boto3, sys; "
            "print(boto3.client('kms', endpoint_url=sys.argv[1]).create_key()['KeyMetadata']['KeyId'])"
        )
        made = subprocess.run(
            [MOTO / "python", "-c", create, url], env=env, check=True, capture_output=True, text=True
        )
        yield url, env, made.stdout.strip()


@contextmanager
def _server(command: list, env: dict[str, str], mark: str) -> Iterator[str]:
    """Run a server until the block ends; yield the URL that it prints behind ``mark``."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = next((line for line in process.stdout if mark in line), None)
        if line is None:
            raise SystemExit(f"bench: {command[0]} did not start")
        # Somebody must read on: moto_server prints a line for each request, and would wait.
        threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
        yield line.partition(mark)[2].strip()
    finally:
        process.terminate()
        process.wait()

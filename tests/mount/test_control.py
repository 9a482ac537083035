"""The control socket of a mount: who may use it, and that nothing sent to it disturbs the mount."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from testkit.home import ALIAS, REGION, refused
from testkit.mounting import Mount, Mounter
from testkit.waiting import await_true

from kmsfs.errors import (
    AccessDeniedError,
    FormatError,
    KeyNotFoundError,
    KmsfsError,
    NotMountedError,
    TreeBusyError,
)
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools.mounted import MountedTree, control_of
from kmsfs.tools.passes import Job, Outcome, Planned
from kmsfs.tree import frames
from kmsfs.tree.directories import is_entry
from kmsfs.tree.rekey import Rekeyer, has_slots
from kmsfs.tree.superblock_file import declare_keys, open_root, read_superblock


def control_path(mount: Mount) -> Path:
    return Path(mount.status()["control"])


def connect(mount: Mount) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(control_path(mount).parent, os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{control_path(mount).name}")
    finally:
        os.close(directory)
    connection.settimeout(30)
    return connection


def said(connection: socket.socket) -> bytes:
    """Everything until the mount closes."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def answer(mount: Mount, request: bytes) -> dict[str, Any]:
    with connect(mount) as connection:
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(request)
        return dict(json.loads(said(connection)))


def serves(mount: Mount) -> None:
    (mount.path / "f").write_text("abc")
    assert (mount.path / "f").read_text() == "abc"
    assert control_of(mount.status()).moved() is not False


def test_the_socket_is_its_owners_and_goes_with_the_mount(mounted: Mount) -> None:
    path = control_path(mounted)
    assert path.parent == mounted.home.path / "run"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    mounted.unmount()
    assert list(path.parent.iterdir()) == []
    with pytest.raises(NotMountedError):
        MountedTree(path).moved()


def test_a_home_with_a_long_path(mounter: Mounter, tmp_path: Path, tree: Path, mounted: Mount) -> None:
    """A socket's path has at most 108 bytes; a home's may have more."""
    mounted.unmount()
    home = mounted.home.copy_to(tmp_path / ("h" * 200))
    serves(mounter(home=home, tree=tree))


def test_sockets_of_killed_mounts_are_cleaned_up(mounted: Mount, mounter: Mounter, tmp_path: Path) -> None:
    left = control_path(mounted)
    mounted.terminate(signal.SIGKILL)
    subprocess.run(["umount", "-l", mounted.path], check=True)
    assert left.exists()
    again = mounter()
    mounted.home.ok("init", tmp_path / "tree2", "--key", ALIAS)
    other = mounter(tree=tmp_path / "tree2", path=tmp_path / "mnt2")
    assert sorted(left.parent.iterdir()) == sorted([control_path(again), control_path(other)])
    serves(again)
    serves(other)


def test_a_read_only_mount_has_none(mounter: Mounter) -> None:
    mount = mounter("-o", "ro")
    assert mount.status()["control"] is None
    with pytest.raises(KmsfsError, match="read-only"):
        control_of(mount.status())


MALFORMED = [
    b"\n",
    b"nonsense\n",
    b"\xff\xfe\n",
    b"[]\n",
    b"{}\n",
    b"[" * 100_000 + b"\n",
    frames.pack({"operation": "unknown"}),
    frames.pack({"operation": ["zone"]}),
    frames.pack({"operation": "zone"}),
    frames.pack({"operation": "zone", "path": "../x", "key_arn": ""}),
    frames.pack({"operation": "zone", "path": "/etc", "key_arn": ""}),
    frames.pack({"operation": "zone", "path": "a\0b", "key_arn": ""}),
    frames.pack({"operation": "zone", "path": "\ud800", "key_arn": ""}),
    frames.pack({"operation": "zone", "path": ".kmsfs.dir", "key_arn": ""}),
    frames.pack({"operation": "zone", "path": "", "key_arn": 1}),
    frames.pack({"operation": "swap", "touch": False}),
    frames.pack({"operation": "swap", "touch": False, "files": ["x"]}),
    frames.pack({"operation": "swap", "touch": False, "files": [{"path": "x", "ino": True}]}),
    frames.pack(
        {
            "operation": "swap",
            "touch": False,
            "files": [{"path": "x", "ino": 1, "header": "AA==", "newest_copy": 0, "sealed": "!"}],
        }
    ),
    b"x" * (frames.MAX_FRAME + 1),
]


def test_what_is_malformed_is_refused(mounted: Mount) -> None:
    for request in MALFORMED:
        with pytest.raises(FormatError):
            frames.result(answer(mounted, request))
        serves(mounted)


def test_clients_that_come_and_go_as_they_like(mounted: Mount) -> None:
    connect(mounted).close()
    with connect(mounted) as half:  # says that nothing more comes, and waits for an answer
        half.sendall(frames.pack({"operation": "moved"}))
        half.shutdown(socket.SHUT_WR)
        assert json.loads(said(half)) == {"result": None}
    with connect(mounted) as cut:
        cut.sendall(b'{"operation": "mo')
        cut.shutdown(socket.SHUT_WR)
        assert said(cut) == b""
    gone = connect(mounted)
    gone.sendall(frames.pack({"operation": "moved"}))
    gone.close()
    serves(mounted)


def test_too_many_clients_at_once(mounted: Mount) -> None:
    idle = [connect(mounted) for _ in range(40)]
    (mounted.path / "f").write_text("abc")
    assert (mounted.path / "f").read_text() == "abc"
    for connection in idle:
        connection.close()
    serves(mounted)


def test_one_client_too_many_is_told(mounted: Mount) -> None:
    tree = control_of(mounted.status())
    idle = [connect(mounted) for _ in range(16)]
    with pytest.raises(TreeBusyError, match="too many"):
        tree.moved()
    for connection in idle:
        connection.close()
    serves(mounted)


def test_a_mount_that_ends_before_it_answers(tmp_path: Path) -> None:
    """It has closed the connection with the request unread."""
    with socket.socket(socket.AF_UNIX) as ending:
        ending.bind(os.fspath(tmp_path / "socket"))
        ending.listen()
        thread = threading.Thread(target=lambda: ending.accept()[0].close())
        thread.start()
        with pytest.raises(NotMountedError, match="before it answered"):
            MountedTree(tmp_path / "socket").moved()
        thread.join()


def test_a_strangers_socket_is_not_asked(tmp_path: Path) -> None:
    """One that somebody could put in the place of the mount's."""
    script = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "listening = socket.socket(socket.AF_UNIX)\n"
        "listening.bind('socket')\n"
        "listening.listen()\n"
        "print('listens', flush=True)\n"
        "print(listening.accept()[0].recv(4096).decode(), end='')\n"
    )
    tmp_path.chmod(0o777)
    command = [sys.executable, "-c", script, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "listens\n"
        with pytest.raises(AccessDeniedError, match="65534"):
            MountedTree(tmp_path / "socket").moved()
        assert stranger.stdout.read() == ""


def test_a_tree_that_was_replaced_under_its_mount(mounted: Mount) -> None:
    """Its path leads to another one: that is not changed in the name of the mount, nor the mount in its."""
    home, away = mounted.home, mounted.tree.with_name("away")
    (mounted.path / "f").write_text("abc")
    mounted.tree.rename(away)
    home.ok("init", mounted.tree, "--key", ALIAS)
    before = (mounted.tree / "kmsfs.tree").read_bytes()
    for command in (["rewrap"], ["zone", "create", "--key", ALIAS]):
        assert "moved or replaced" in refused(home.run(*command, mounted.path), 32)
    assert home.json("zone", "list", mounted.path)["zones"] == []
    assert (mounted.tree / "kmsfs.tree").read_bytes() == before
    assert not home.json("info", mounted.tree)["is_zone"]


def test_an_unmount_does_not_wait_for_clients(mounted: Mount) -> None:
    with connect(mounted):
        mounted.unmount()
        assert not mounted.path.is_mount()


def test_a_stranger_is_refused(mounted: Mount) -> None:
    """Even one whom something lets as far as the socket."""
    path = control_path(mounted)
    script = (
        "import os, socket, sys\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "os.chdir(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "connection.connect(sys.argv[2])\n"
        "try:\n"
        '    connection.sendall(b\'{"operation": "moved"}\\n\')\n'
        "except BrokenPipeError:\n"
        "    pass\n"
        "print(connection.recv(4096).decode())\n"
    )
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o666)
    done = subprocess.run(
        [sys.executable, "-c", script, path.parent, path.name], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["error"]["kind"] == "AccessDeniedError"
    serves(mounted)


def test_what_an_operation_refuses_comes_back_as_what_it_was(mounted: Mount) -> None:
    tree = control_of(mounted.status())
    with pytest.raises(KeyNotFoundError):
        tree.set_zone("", f"arn:aws:kms:{REGION}:000000000000:key/12345678-1234-1234-1234-123456789012")
    with pytest.raises(FileNotFoundError):
        tree.set_zone("nothing", "")
    serves(mounted)


def test_the_keys_of_a_mounted_tree_change(mounted: Mount) -> None:
    """What a tool does: declares another key, has the mount take it over, brings a file under both keys."""
    home = mounted.home
    home.ok("region", "add", "us-east-1")
    other = home.json("key", "create", "--region", "us-east-1")["Arn"]
    (mounted.path / "f").write_text("abc")
    info = json.loads(os.getxattr(mounted.path / "f", "user.kmsfs.info"))
    (slot,) = [slot["key_arn"] for slot in info["slots"]]
    tree = control_of(mounted.status())
    with Keystore.open(home.path) as keystore:
        root_fd = open_root(mounted.tree)
        block = declare_keys(keystore, root_fd, mounted.tree, [slot, other], renew=False)
        os.close(root_fd)
        tree.reload()
        (mounted.path / "g").write_text("abc")
        assert keys_of(mounted.path / "g") == [slot, other]
        stored = next(path for path in mounted.tree.iterdir() if path.name == info["entry"])
        with stored.open("rb") as file:
            raw = file.read(HEADER_SIZE)
            rekeyer = Rekeyer(keystore, block.tree_id)
            swap = rekeyer.swap(raw, rekeyer.targets(block.key_arns))
            assert swap is not None
            job = Job(stored.name.encode(), file.fileno(), raw, block.key_arns)
            assert tree.swap([Planned(job, swap)] * 2, touch=False) == [Outcome.DONE, Outcome.CHANGED]
            stranger = Planned(job._replace(path=b"nothing"), swap)
            assert tree.swap([stranger], touch=False) == [Outcome.GONE]
            far = Planned(job._replace(path=b"/".join([b"n" * 100] * 200)), swap)
            assert tree.swap([far] * 256, touch=False) == [Outcome.GONE] * 256
    assert keys_of(mounted.path / "f") == [slot, other]
    assert (mounted.path / "f").read_text() == "abc"


def test_who_comes_after_a_tool_that_was_killed_waits_for_what_it_had_begun(mounted: Mount) -> None:
    """A request is carried out to its end: what is not settled when a journal is read would be in no report."""
    home = mounted.home
    home.ok("region", "add", "us-east-1")
    other = KeyArn(home.json("key", "create", "--region", "us-east-1")["Arn"])
    for number in range(200):  # more than the mount does at once
        (mounted.path / f"f{number}").write_text("abc")
    mounted.unmount()
    mounted.start()
    tree = control_of(mounted.status())
    with Keystore.open(home.path) as keystore, ExitStack() as held:
        rekeyer = Rekeyer(keystore, read_superblock(mounted.tree).tree_id)
        targets = rekeyer.targets((other,))
        planned = []
        for stored in (path for path in mounted.tree.iterdir() if is_entry(path.name.encode())):
            fd = held.enter_context(stored.open("rb")).fileno()
            raw = os.pread(fd, HEADER_SIZE, 0)
            swap = rekeyer.swap(raw, targets)
            assert swap is not None
            planned.append(Planned(Job(stored.name.encode(), fd, raw, (other,)), swap))
        killed = threading.Thread(target=tree.swap, args=[planned], kwargs={"touch": False})
        killed.start()
        await_true(lambda: any(map(is_new, planned)))
        tree.wait_for_swaps()
        left = [plan for plan in planned if not is_new(plan)]
        killed.join()
    assert left == []


def is_new(plan: Planned) -> bool:
    """Whether a file has got its new slots, perhaps beside the old ones."""
    named = [(head.key_arn, head.material_id.hex()) for head in plan.swap.new]
    return has_slots(os.pread(plan.job.fd, HEADER_SIZE, 0), plan.swap.file_id.hex(), named)


def keys_of(path: Path) -> list[str]:
    return [slot["key_arn"] for slot in json.loads(os.getxattr(path, "user.kmsfs.info"))["slots"]]

"""A mount that nobody uses still does for its keys what is due, and depends on nothing that it does not need."""

from testkit.audits import records
from testkit.clock import late_by
from testkit.home import ALIAS, REGION
from testkit.mounting import Mount
from testkit.waiting import await_true

from kmsfs.keystore.service import Keystore


def test_an_idle_mount_rotates_and_deletes(mounted: Mount) -> None:
    """The keystore here is late, so that nothing is due in its own eyes."""
    (mounted.path / "file").write_bytes(b"old")
    mounted.unmount()
    mounted.start()
    home = mounted.home.path

    def by_itself() -> list[tuple[str, str]]:
        found = [(record["action"], record["via"]) for record in records(home)]
        return sorted(entry for entry in found if entry[0] in ("DeleteKey", "RotateKey"))

    with Keystore.open(home, now=late_by(90)) as late:
        late.enable_key_rotation(ALIAS, period_days=90)
        late.schedule_key_deletion(late.create_key(REGION).arn, days=7)
        await_true(lambda: by_itself() == [("DeleteKey", "mount"), ("RotateKey", "mount")])
        assert len(late.describe_key(ALIAS).materials) == 2
        assert len(late.list_keys()) == 1
    assert (mounted.path / "file").read_bytes() == b"old"


def test_a_damaged_register_of_trees_does_not_stop_a_mount(mounted: Mount) -> None:
    mounted.unmount()
    (mounted.home.path / "trees.json").write_text("{")
    mounted.expect_log("WARNING kmsfs.* register of trees .* is damaged")
    mounted.start()
    (mounted.path / "file").write_bytes(b"x")

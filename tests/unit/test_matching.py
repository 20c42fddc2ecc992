"""Which disks selectors choose, and what the planners make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import support
from msgspec.structs import replace

from thinpoolmgr.core.desired import DesiredPool, DesiredState, MatchConfig, PoolConfig
from thinpoolmgr.core.documents import status_document
from thinpoolmgr.core.findings import find_all
from thinpoolmgr.core.guards import check_paths
from thinpoolmgr.core.matching import (
    describe_selector,
    describe_use,
    is_candidate,
    is_wanted,
    misses,
    missing_disks,
    resolve_matches,
    stable_name,
)
from thinpoolmgr.core.model import ConfiguredDevice, DmDevice, PhysicalVolume, Signature, Snapshot
from thinpoolmgr.core.names import OUR_TAG
from thinpoolmgr.core.plan import Memory
from thinpoolmgr.core.planner import plan_activate, plan_apply
from thinpoolmgr.core.steps import CreateVolumeGroup, ExtendVolumeGroup, step_name
from thinpoolmgr.core.teardown import plan_deactivate, plan_destroy
from thinpoolmgr.sim.steps import apply_step, make_group
from thinpoolmgr.units import GIB, TIB

if TYPE_CHECKING:
    from thinpoolmgr.core.model import Disk
    from thinpoolmgr.core.plan import Plan, Refusal

NOTHING = Memory()
EXT4 = Signature("ext4", "filesystem", 1080)
GOOD: dict[str, Any] = {
    "serial": "WD-123",
    "model": "WDC_WD40",
    "wwn": "0x50014ee2",
    "transport": "ata",
    "rotational": True,
    "id_path": "pci-0000:00:1f.2-ata-3",
    "links": ("/dev/disk/by-id/ata-WDC_WD40_WD-123", "/dev/disk/by-path/pci-0000:00:1f.2-ata-3"),
}


def disk(path: str = "/dev/sdb", size_bytes: int = TIB, **facts: Any) -> Disk:
    return support.disk(path, size_bytes, **facts)


def chosen_pool(*selectors: dict[str, Any], name: str = "docker", **config: Any) -> DesiredPool:
    return DesiredPool(name, msgspec.convert({"match": selectors, **config}, PoolConfig))


def wd(count: int = 1, **keys: Any) -> dict[str, Any]:
    return {"serial": "WD-*", "count": count, **keys}


def wd_disks(letters: str) -> tuple[Disk, ...]:
    return tuple(disk(f"/dev/sd{letter}", serial=f"WD-{letter}") for letter in letters)


def host(*disks: Disk, **facts: Any) -> Snapshot:
    """Return a host whose disks nobody has named."""
    return support.checked(Snapshot(disks=disks, boot_id=support.BOOT, **facts))


def resolve(shot: Snapshot, *pools: DesiredPool) -> tuple[DesiredState, list[Refusal]]:
    return resolve_matches(DesiredState(pools), shot)


def refused(shot: Snapshot, *pools: DesiredPool) -> Refusal:
    resolved, refusals = resolve(shot, *pools)
    assert any(not pool.config.devices for pool in resolved.pools)
    return refusals[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("serial", "WD-*"),
        ("model", "WDC_WD4?"),
        ("wwn", "0x50014ee2"),
        ("transport", "[as]ta"),
        ("path", "pci-0000:00:1f.2-*"),
        ("path", "/dev/sd?"),
        ("path", "/dev/disk/by-id/ata-*"),
        ("rotational", True),
        ("min_size", "1TiB"),
    ],
)
def test_each_key_holds_for_the_disk_that_has_it(key: str, value: object) -> None:
    assert misses(MatchConfig(**{key: value}), disk(**GOOD)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "has"),
    [
        ("serial", "wd-*", "WD-123"),
        ("serial", "WD", "WD-123"),
        ("model", "*SAMSUNG*", "WDC_WD40"),
        ("wwn", "0x5?", "0x50014ee2"),
        ("transport", "usb", "ata"),
        ("path", "pci-*-ata-4", "pci-0000:00:1f.2-ata-3, /dev/sdb"),
        ("rotational", False, "true"),
        ("min_size", "1025GiB", "1 TiB"),
    ],
)
def test_each_key_fails_with_what_the_disk_has(key: str, value: object, has: str) -> None:
    (miss,) = misses(MatchConfig(**{key: value}), disk(**GOOD))  # type: ignore[arg-type]
    assert (miss.key, miss.has) == (key, has)


@pytest.mark.parametrize("key", ["serial", "model", "wwn", "transport"])
def test_what_udev_does_not_say_is_never_matched_not_even_by_a_star(key: str) -> None:
    (miss,) = misses(MatchConfig(**{key: "*"}), disk(serial=""))  # type: ignore[arg-type]
    assert (miss.key, miss.has) == (key, "nothing: udev does not say")


@pytest.mark.parametrize("wanted", [True, False])
def test_what_turns_unknown_is_not_matched(*, wanted: bool) -> None:
    assert [miss.key for miss in misses(MatchConfig(rotational=wanted), disk(rotational=None))] == ["rotational"]


def test_all_keys_must_hold() -> None:
    selector = MatchConfig(serial="WD-*", rotational=False, min_size="2TiB")
    assert [miss.key for miss in misses(selector, disk(**GOOD))] == ["rotational", "min_size"]


def test_a_selector_is_told_as_it_is_written() -> None:
    selector = MatchConfig(serial='a"\\b', rotational=False, min_size="1TiB", count=2)
    assert describe_selector(selector) == r'serial = "a\"\\b", rotational = false, min_size = "1TiB"'


@pytest.mark.parametrize(
    ("facts", "candidate"),
    [
        ({}, True),
        ({"kind": "multipath"}, True),
        ({"kind": "loop"}, True),
        ({"kind": "md"}, True),
        ({"kind": "partition"}, False),
        ({"kind": "dm"}, False),
        ({"kind": "sr"}, False),
        ({"kind": "ram"}, False),
        ({"kind": "zram"}, False),
        ({"size_bytes": 0}, False),
    ],
)
def test_candidates_are_whole_disks(facts: dict[str, Any], *, candidate: bool) -> None:
    found = replace(disk(), **facts)
    assert is_candidate(found, Snapshot()) is candidate
    assert is_wanted(found, chosen_pool(wd(), {"serial": "S-*"}), Snapshot()) is candidate
    assert not is_wanted(found, chosen_pool(wd()), Snapshot())


def multipath_host() -> Snapshot:
    paths = [disk(f"/dev/sd{x}", serial="WD-1", holders=("dm-0",), links=("/dev/disk/by-id/wwn-1",)) for x in "bc"]
    links = ("/dev/disk/by-id/dm-uuid-mpath-36", "/dev/disk/by-id/wwn-1", "/dev/mapper/mpatha")
    whole = replace(disk("/dev/dm-0", serial="WD-1", links=links), kind="multipath", devno="254:0")
    device = DmDevice("mpatha", "mpath-36", "254:0", 0, targets=("multipath",), depends_on=("8:16", "8:32"))
    return host(*paths, whole, dm_devices=(device,))


def test_the_map_is_chosen_never_its_paths() -> None:
    resolved, refusals = resolve(multipath_host(), chosen_pool(wd()))
    assert refusals == []
    assert resolved.pools[0].config.devices == ("/dev/disk/by-id/dm-uuid-mpath-36",)
    assert plan_apply(DesiredState((chosen_pool(wd()),)), multipath_host(), NOTHING).refusals == ()


def test_a_path_that_is_named_is_refused_with_the_name_of_its_map() -> None:
    shot = replace(multipath_host(), configured_devices=(ConfiguredDevice("/dev/sdb", "/dev/sdb"),))
    (refusal,) = plan_apply(support.desired(), shot, NOTHING).refusals
    assert (refusal.code, "name the multipath device /dev/mapper/mpatha" in refusal.resolution) == ("DISK_HELD", True)


@pytest.mark.parametrize(
    ("links", "name"),
    [
        ((), "/dev/sdb"),
        (("/dev/disk/by-path/pci-1",), "/dev/disk/by-path/pci-1"),
        (("/dev/disk/by-path/pci-1", "/dev/disk/by-id/ata-1"), "/dev/disk/by-id/ata-1"),
        (("/dev/disk/by-id/ata-1", "/dev/disk/by-id/wwn-1"), "/dev/disk/by-id/wwn-1"),
        (("/dev/disk/by-id/lvm-pv-uuid-1", "/dev/disk/by-id/scsi-1"), "/dev/disk/by-id/scsi-1"),
        (("/dev/disk/by-id/lvm-pv-uuid-1", "/dev/disk/by-label/x", "/dev/disk/by-diskseq/1"), "/dev/sdb"),
        (("/dev/disk/by-id/nvme-long-name", "/dev/disk/by-id/nvme-b", "/dev/disk/by-id/nvme-a"), None),
        (("/dev/disk/by-id/shared", "/dev/disk/by-path/pci-1"), "/dev/disk/by-path/pci-1"),
    ],
)
def test_the_name_that_lasts_longest(links: tuple[str, ...], name: str | None) -> None:
    twin = disk("/dev/sdc", links=("/dev/disk/by-id/shared",))
    found = disk(links=links)
    assert stable_name(found, host(found, twin)) == (name or "/dev/disk/by-id/nvme-a")


def test_exactly_as_many_as_asked_for_are_chosen() -> None:
    first, second = wd_disks("bc")
    shot = host(replace(first, links=("/dev/disk/by-id/ata-b",)), second, disk("/dev/sdd"))
    resolved, refusals = resolve(shot, chosen_pool(wd(2)))
    assert refusals == []
    (pool,) = resolved.pools
    assert pool.config.devices == ("/dev/disk/by-id/ata-b", "/dev/sdc")
    assert pool.chosen_by == ('match[0]: serial = "WD-*"',) * 2
    assert resolve_matches(resolved, shot) == (resolved, [])


def test_selectors_add_up() -> None:
    shot = host(*wd_disks("b"), disk("/dev/sdc", model="SSD"))
    resolved, refusals = resolve(shot, chosen_pool(wd(), {"model": "SSD"}))
    assert (refusals, resolved.pools[0].config.devices) == ([], ("/dev/sdb", "/dev/sdc"))
    assert resolved.pools[0].chosen_by == ('match[0]: serial = "WD-*"', 'match[1]: model = "SSD"')


def test_a_pool_with_named_devices_stays_as_it_is() -> None:
    state = support.desired()
    assert resolve_matches(state, support.snapshot()) == (state, [])


def test_too_many_are_refused_with_all_of_them_and_their_use() -> None:
    first, second, third = wd_disks("bcd")
    shot = host(first, replace(second, mounts=("/srv",), opened_exclusively=True), replace(third, size_bytes=GIB))
    refusal = refused(shot, chosen_pool(wd(min_size="100GiB")))
    assert (refusal.code, refusal.target, refusal.exit_code) == ("MATCH_COUNT", "pools.docker.match[0]", 3)
    assert refusal.summary == "pools.docker.match[0] must match exactly 1 disk, and 2 match"
    assert refusal.details.splitlines() == [
        'It asks for serial = "WD-*", min_size = "100GiB".',
        "Matches: /dev/sdb, 1 TiB, serial WD-b; unused",
        "Matches: /dev/sdc, 1 TiB, serial WD-c; mounted on /srv",
        "Fails only min_size: /dev/sdd, 1 GiB, serial WD-d; min_size is 1 GiB",
    ]
    assert "count = 2" in refusal.resolution


def test_a_free_disk_is_never_preferred_to_one_in_use() -> None:
    first, second = wd_disks("bc")
    used = replace(second, swap=True, opened_exclusively=True)
    assert refused(host(first, used), chosen_pool(wd())).code == "MATCH_COUNT"


def test_too_few_are_refused_with_the_near_misses_only() -> None:
    shot = host(*wd_disks("b"), disk("/dev/sdc", 5 * GIB, serial="WD-c", model="M"), disk("/dev/sdd", 5 * GIB))
    refusal = refused(shot, chosen_pool(wd(2, min_size="100GiB")))
    assert refusal.summary == "pools.docker.match[0] must match exactly 2 disks, and 1 matches"
    assert "Fails only min_size: /dev/sdc, 5 GiB, serial WD-c, model M; min_size is 5 GiB" in refusal.details
    assert "/dev/sdd" not in refusal.details
    assert "Attach the disk" in refusal.resolution


def test_a_host_without_udev_is_told_so() -> None:
    refusal = refused(host(disk(serial="")), chosen_pool(wd()))
    assert refusal.summary == "pools.docker.match[0] must match exactly 1 disk, and none match"
    assert "/dev/sdb, 1 TiB, no serial; serial is nothing: udev does not say" in refusal.details


def test_a_long_list_is_cut() -> None:
    many = tuple(replace(disk(), path=f"/dev/sd{n}", devno=f"8:{n}", serial=f"WD-{n}") for n in range(30))
    lines = refused(host(*many), chosen_pool(wd())).details.splitlines()
    assert (len(lines), lines[-1]) == (22, "... and 10 more like this")


@pytest.mark.parametrize(
    "others",
    [
        (chosen_pool({"path": "/dev/sdb"}, name="second"),),
        (support.pool("second", "/dev/sdb"),),
        (support.pool("second", "/dev/sdz", spare_devices=("/dev/sdb",)),),
    ],
)
def test_a_disk_that_is_taken_already_is_refused(others: tuple[DesiredPool, ...]) -> None:
    shot = host(*wd_disks("b"))
    refusal = refused(shot, chosen_pool(wd()), *others)
    assert (refusal.code, refusal.exit_code) == ("MATCH_TWICE", 3)
    assert {"pools.docker", "pools.second"} <= {word.rpartition(".")[0] for word in refusal.summary.split()}
    plan = plan_apply(DesiredState((chosen_pool(wd()), *others)), shot, NOTHING)
    assert "MATCH_TWICE" in [refusal.code for refusal in plan.refusals]


def test_two_selectors_of_one_pool_cannot_share_a_disk() -> None:
    refusal = refused(host(*wd_disks("b")), chosen_pool(wd(), {"path": "/dev/sdb"}))
    assert refusal.summary == "pools.docker.match[1] and pools.docker.match[0] both take /dev/sdb"


def test_a_disk_and_its_partition_are_not_both_taken() -> None:
    whole = replace(wd_disks("b")[0], partitions=("/dev/sdb1",))
    part = replace(disk("/dev/sdb1"), kind="partition", devno="8:17")
    shot = host(whole, part, configured_devices=(ConfiguredDevice("/dev/sdb1", "/dev/sdb1"),))
    state = DesiredState((chosen_pool(wd()), support.pool("second", "/dev/sdb1")))
    codes = [refusal.code for refusal in plan_apply(state, shot, NOTHING).refusals]
    assert "SAME_DISK_TWICE" in codes


def spare_host(in_group: str, letters: str = "bcd") -> Snapshot:
    """Return a host with these disks, of which the pool's group has some; /dev/spare, as it is named, is sdc."""
    shot = host(*wd_disks(letters), configured_devices=(ConfiguredDevice("/dev/spare", "/dev/sdc"),))
    paths = tuple(f"/dev/sd{letter}" for letter in in_group)
    return support.checked(make_group(shot, "docker", paths, (OUR_TAG,))) if paths else shot


def spare_pool(count: int = 1, *spares: str) -> DesiredPool:
    return chosen_pool(wd(count), spare_devices=spares or ("/dev/spare",))


@pytest.mark.parametrize(
    ("in_group", "count", "chosen"),
    [
        # not taken yet: it is neither counted nor chosen
        ("", 2, "bd"),
        ("b", 1, "b"),
        ("b", 2, "bd"),
        ("bd", 2, "bd"),
        # taken: counted or not, nothing else is chosen for it
        ("bc", 1, "b"),
        ("bc", 2, "bc"),
        ("bcd", 2, "bd"),
        ("bcd", 3, "bdc"),
        ("c", 1, "c"),
        # all that match are meant
        ("bc", 3, "bcd"),
    ],
)
def test_a_spare_disk_that_matches_never_changes_what_else_is_chosen(in_group: str, count: int, chosen: str) -> None:
    shot, pool = spare_host(in_group), spare_pool(count)
    resolved, refusals = resolve(shot, pool)
    names = tuple("/dev/spare" if letter == "c" else f"/dev/sd{letter}" for letter in chosen)
    assert (refusals, resolved.pools[0].config.devices) == ([], names)
    assert resolve_matches(resolved, shot) == (resolved, [])
    assert check_paths(resolved, shot) == []


@pytest.mark.parametrize(("in_group", "count"), [("", 1), ("", 3), ("b", 3), ("bcd", 1)])
def test_a_spare_disk_makes_no_number_right(in_group: str, count: int) -> None:
    """Nor is it taken as an ordinary disk, where one is missing."""
    refusal = refused(spare_host(in_group), spare_pool(count))
    assert refusal.code == "MATCH_COUNT"
    left_out = "Left out: /dev/sdc, 1 TiB, serial WD-c; pools.docker.spare_devices names it"
    assert (left_out in refusal.details) is ("c" not in in_group)


def test_two_new_disks_are_not_chosen_where_a_spare_disk_may_have_been_counted() -> None:
    refusal = refused(spare_host("bc", "bcde"), spare_pool(3))
    assert "exactly 3 disks, and 4 match" in refusal.summary


def test_a_spare_disk_that_is_taken_stays_that_of_one_pool_and_named_once() -> None:
    shot = spare_host("bc")
    other = support.pool("second", "/dev/sdz", spare_devices=("/dev/sdc",))
    assert refused(shot, spare_pool(2), other).code == "MATCH_TWICE"
    assert refused(shot, chosen_pool(wd(2), {"path": "/dev/sdc"}, spare_devices=("/dev/spare",))).code == "MATCH_TWICE"
    link = ConfiguredDevice("/dev/link", "/dev/sdc")
    shot = replace(shot, configured_devices=(*shot.configured_devices, link))
    plan = plan_apply(DesiredState((spare_pool(2, "/dev/spare", "/dev/link"),)), shot, NOTHING)
    assert [(refusal.code, refusal.exit_code) for refusal in plan.refusals] == [("SAME_DISK_TWICE", 78)]


# what the planners make of it


def carried_out(shot: Snapshot, plan: Plan) -> Snapshot:
    assert plan.refusals == ()
    for step in plan.steps:
        shot = support.checked(apply_step(shot, step))
    return shot


PAIR = DesiredState((chosen_pool(wd(2)),))


def applied() -> Snapshot:
    return carried_out(host(*wd_disks("bc"), disk("/dev/sdd")), plan_apply(PAIR, host(*wd_disks("bc")), NOTHING))


def with_disks(shot: Snapshot, *disks: Disk) -> Snapshot:
    return support.checked(replace(shot, disks=(*shot.disks, *disks)))


def test_a_plan_says_which_selector_chose_the_disks() -> None:
    plan = plan_apply(PAIR, host(*wd_disks("bc")), NOTHING)
    group = plan.steps[0]
    assert isinstance(group, CreateVolumeGroup)
    assert [ref.path for ref in group.disks] == ["/dev/sdb", "/dev/sdc"]
    assert group.reason.endswith('are blank and unused; chosen by match[0]: serial = "WD-*"')
    assert plan.warnings == ()


def test_what_was_applied_is_all_there_is_to_do() -> None:
    assert plan_apply(PAIR, applied(), NOTHING).is_empty
    document = status_document(PAIR, applied())
    assert (document.pools[0].state, document.findings) == ("healthy", ())


def test_a_new_disk_that_matches_is_no_error_once_the_pool_stands() -> None:
    shot = with_disks(applied(), *wd_disks("e"))
    assert plan_apply(PAIR, shot, NOTHING).is_empty
    assert find_all(PAIR, shot) == ()
    assert refused(replace(shot, groups=(), dm_devices=()), *PAIR.pools).code == "MATCH_COUNT"


def test_a_group_of_others_gives_no_preference() -> None:
    shot = with_disks(support.with_group(host(*wd_disks("bc")), tags=()), *wd_disks("e"))
    assert refused(shot, *PAIR.pools).summary.endswith("exactly 2 disks, and 3 match")


def test_a_group_with_more_disks_than_asked_for_is_refused() -> None:
    shot = support.with_pool(support.with_group(host(*wd_disks("bcd"))), PAIR.pools[0])
    assert "3 match" in refused(shot, *PAIR.pools).summary
    assert [finding.code for finding in find_all(PAIR, shot)] == ["MATCH_COUNT"]


def test_a_chosen_disk_that_is_not_in_the_group_joins_it() -> None:
    one = support.with_pool(support.with_group(host(*wd_disks("b"))), PAIR.pools[0])
    extension = plan_apply(PAIR, with_disks(one, *wd_disks("c")), NOTHING).steps[0]
    assert isinstance(extension, ExtendVolumeGroup)
    assert [ref.path for ref in extension.disks] == ["/dev/sdc"]
    assert "; chosen by match[0]: " in extension.reason


def test_a_missing_disk_of_the_group_is_said_with_the_count() -> None:
    shot = applied()
    (group,) = shot.groups
    gone = replace(group.pvs[1], path="[unknown]", missing=True)
    partial = replace(group, pvs=(group.pvs[0], gone), attr="wz-pn-")
    shot = support.checked(replace(shot, disks=(shot.disks[0],), groups=(partial,)))
    refusal = plan_apply(PAIR, shot, NOTHING).refusals[0]
    assert refusal.code == "MATCH_COUNT"
    assert "A disk of the volume group docker is missing." in refusal.details


def test_a_chosen_disk_is_judged_by_the_guards() -> None:
    first, second = wd_disks("bc")
    mounted = replace(second, mounts=("/srv",), opened_exclusively=True)
    plan = plan_apply(PAIR, host(first, mounted), NOTHING)
    assert ([refusal.code for refusal in plan.refusals], plan.steps) == (["DISK_MOUNTED"], ())


def test_a_chosen_disk_is_never_wiped() -> None:
    state = DesiredState((chosen_pool(wd(), wipe_signatures=True),))
    (refusal,) = plan_apply(state, host(replace(wd_disks("b")[0], signatures=(EXT4,))), NOTHING).refusals
    assert refusal.code == "DISK_HAS_SIGNATURE"
    assert "name it in devices instead of match" in refusal.resolution


def test_one_bad_selector_keeps_the_good_pool_unbuilt() -> None:
    state = DesiredState((chosen_pool(wd(3)), support.pool("second", "/dev/sdd")))
    shot = host(*wd_disks("bc"), disk("/dev/sdd"), configured_devices=(ConfiguredDevice("/dev/sdd", "/dev/sdd"),))
    plan = plan_apply(state, shot, NOTHING)
    assert [refusal.code for refusal in plan.refusals] == ["MATCH_COUNT"]
    assert {step.pool for step in plan.steps} == {"second"}


@pytest.mark.parametrize("extra", ["", "e", "ef"])
def test_a_pool_is_taken_down_whatever_the_selectors_would_choose_now(extra: str) -> None:
    shot = with_disks(applied(), *wd_disks(extra))
    (pool,) = PAIR.pools
    off = carried_out(shot, plan_deactivate(pool, PAIR, shot, NOTHING))
    assert off.dm_devices == ()
    on = carried_out(off, plan_activate(pool, PAIR, off, NOTHING))
    assert on.dm_devices == shot.dm_devices
    gone = carried_out(on, plan_destroy(pool, PAIR, on, NOTHING))
    assert (gone.groups, gone.orphan_pvs) == ((), ())


def test_without_its_selectors_disks_a_pool_is_still_activated() -> None:
    narrowed = DesiredState((chosen_pool({"serial": "nothing", "count": 2}),))
    shot = support.deactivated(applied())
    steps = plan_activate(narrowed.pools[0], narrowed, shot, NOTHING).steps
    assert [step_name(step) for step in steps] == ["activate-pool"]


@pytest.mark.parametrize("letters", ["bc", "bcd"])
def test_labels_of_an_interrupted_run_are_removed_though_the_selector_is_ambiguous_now(letters: str) -> None:
    shot = host(*wd_disks("bc"))
    begun = plan_apply(PAIR, shot, NOTHING).steps[0]
    orphan = PhysicalVolume("/dev/sdb", support.uuid_of("pv"), TIB)
    disks = tuple(replace(d, signatures=(support.LABEL,) if d.path == "/dev/sdb" else ()) for d in wd_disks(letters))
    left = host(*disks, orphan_pvs=(orphan,))
    plan = plan_destroy(PAIR.pools[0], PAIR, left, Memory(interrupted=(begun,)))
    assert [step_name(step) for step in plan.steps] == ["remove-physical-volumes"]
    assert plan_destroy(PAIR.pools[0], PAIR, left, NOTHING).steps == ()
    swapped = replace(left, disks=tuple(replace(d, diskseq=9) for d in left.disks))
    assert plan_destroy(PAIR.pools[0], PAIR, swapped, NOTHING).fingerprint != plan.fingerprint


def test_what_other_disks_are_used_for_does_not_make_a_plan_stale() -> None:
    before = host(*wd_disks("bc"), disk("/dev/sdd"))
    after = host(*wd_disks("bc"), disk("/dev/sdd", mounts=("/srv",)))
    changed = host(replace(wd_disks("b")[0], diskseq=9), *wd_disks("c"), disk("/dev/sdd"))
    prints = [plan_apply(PAIR, shot, NOTHING).fingerprint for shot in (before, after, changed)]
    assert (prints[0] == prints[1], prints[0] == prints[2]) == (True, False)


@pytest.mark.parametrize(
    ("facts", "use"),
    [
        ({}, "unused"),
        ({"mounts": ("/a", "/b"), "swap": True}, "mounted on /a, /b, swap"),
        ({"holders": ("md0",)}, "held by md0"),
        ({"opened_exclusively": True}, "opened exclusively"),
        ({"opened_exclusively": None}, "whether it is in use is unknown"),
    ],
)
def test_use_in_a_few_words(facts: dict[str, Any], use: str) -> None:
    assert describe_use(disk(**facts), Snapshot()) == use
    assert describe_use(applied().disks[0], applied()) == "in the volume group docker"


def test_what_is_still_to_come_is_missing() -> None:
    named = DesiredPool("a", PoolConfig(devices=("/dev/here", "/dev/gone"), spare_devices=("/dev/late", "/dev/file")))
    shot = host(
        *wd_disks("b"),
        configured_devices=(
            ConfiguredDevice("/dev/here", "/dev/sdb"),
            ConfiguredDevice("/dev/gone", problem="missing"),
            ConfiguredDevice("/dev/late", problem="missing"),
            # Waiting makes no device of it.
            ConfiguredDevice("/dev/file", problem="not a block device"),
        ),
    )
    desired = DesiredState((named, chosen_pool(wd(1), wd(2), {"serial": "X"})))
    assert missing_disks(desired, shot) == (
        "/dev/gone",
        "/dev/late",
        'pools.docker.match[1] (serial = "WD-*")',
        'pools.docker.match[2] (serial = "X")',
    )


def test_a_spare_disk_is_missing_only_where_the_pool_may_be_on_it() -> None:
    pool = support.pool(spare_devices=("/dev/late",))
    whole = support.healthy()
    shot = replace(
        whole, configured_devices=(*whole.configured_devices, ConfiguredDevice("/dev/late", problem="missing"))
    )
    empty = replace(shot, groups=(replace(shot.groups[0], lvs=()),))
    away = ("/dev/late",)
    for seen, missing in ((shot, ()), (replace(shot, groups=()), away), (partial(shot), away), (empty, away)):
        assert missing_disks(DesiredState((pool,)), seen) == missing


def partial(shot: Snapshot) -> Snapshot:
    """Return `shot` while a disk of its group is away."""
    return replace(shot, groups=(replace(shot.groups[0], attr="wz-pn-"),))


def test_a_spare_disk_stands_in_for_no_disk_that_is_still_to_come() -> None:
    unknown = replace(spare_host("bc", "bc"), groups=())
    for shot, count, misses_one in (
        (unknown, 1, False),
        (unknown, 2, True),
        (spare_host("b", "bc"), 2, True),
        (spare_host("bc", "bc"), 2, False),
        (partial(spare_host("bc", "bc")), 2, True),
        (partial(spare_host("bc", "bc")), 1, False),
    ):
        assert bool(missing_disks(DesiredState((spare_pool(count),)), shot)) is misses_one


def test_nothing_is_missing_where_too_many_disks_match() -> None:
    assert missing_disks(DesiredState((chosen_pool(wd(1)),)), host(*wd_disks("bc"))) == ()
    assert missing_disks(DesiredState((chosen_pool(wd(2)),)), host(*wd_disks("bc"), disk(size_bytes=0))) == ()

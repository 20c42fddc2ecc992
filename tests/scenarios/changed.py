"""Scenarios of pools that exist: enlarged, set otherwise, adopted, rebuilt, cleaned up after, cut short in between."""

from __future__ import annotations

from typing import Any

from words import (
    APPLIED,
    DESTROYED,
    GROUP,
    NOTHING,
    POOL,
    REMOVALS,
    SMALL,
    Act,
    Config,
    Line,
    Run,
    Scenario,
    done,
    killed,
    refused,
)

VGEXTEND, DATA, METADATA = "extend-volume-group", "extend-data", "extend-metadata"
PROFILE, ATTACH = "edit-lvm-profile", "set-profile"
MORE = "extend --data +100MiB"
MORE_METADATA = "extend --metadata +8MiB"
DMEVENTD = {"extend": {"monitor": "dmeventd"}}
TWO = {**SMALL, "devices": (0,)}
REBUILT = done("deactivate-pool", *REMOVALS, GROUP, POOL, command="rebuild")
# as LVM makes a pool of 100 MiB on its own
OTHERS: dict[str, Any] = {
    "data_size": "100MiB",
    "metadata_size": "4MiB",
    "chunk_size": "64KiB",
    "zero_new_blocks": True,
}


def small(*lines: Line, disks: int = 1, **config: Any) -> Scenario:
    """Return the scenario of a small pool that is made, and then `lines`."""
    return Scenario((APPLIED, *lines), disks, {**SMALL, **config})


def cut_short(command: str, step: str, what: str, *mended: str) -> Scenario:
    """Return the scenario of `command` killed inside `step`, where it leaves `what`: run again it gets to its end."""
    again = (done(*mended, command=command), NOTHING, DESTROYED)
    return small(killed(f"before {step}", command), Act(what), *again)


ENLARGED = {
    "enlarged to a size": small(Config({"data_size": "500MiB"}), done(DATA), NOTHING, DESTROYED, data_size="300MiB"),
    "enlarged to a share": small(Config({"data_size": "80%VG"}), done(DATA), NOTHING),
    "enlarged to all that is free": small(Config({"data_size": "100%FREE"}), done(DATA), NOTHING),
    "metadata enlarged": small(Config({"metadata_size": "20MiB"}), done(METADATA), NOTHING, DESTROYED),
    "metadata and data enlarged": small(
        Config({"metadata_size": "20MiB", "data_size": "70%VG"}), done(METADATA, DATA), NOTHING
    ),
    "a disk is added": small(
        Config({"devices": (0, 1)}), done(VGEXTEND, DATA), NOTHING, DESTROYED, disks=2, devices=(0,)
    ),
    "a disk is added that is not blank": small(
        Act("ext4", 1), Config({"devices": (0, 1)}), Run("apply", "DISK_HAS_SIGNATURE"), disks=2, devices=(0,)
    ),
    "a disk is added and wiped": small(
        Act("ext4", 1),
        Config({"devices": (0, 1), "wipe_signatures": True}),
        done("wipe-signatures", VGEXTEND, DATA),
        NOTHING,
        disks=2,
        devices=(0,),
    ),
    "shrinking is refused": small(
        Config({"data_size": "40%VG"}), Run("apply", "SETTING_DIFFERS"), Config({"data_size": "60%VG"}), NOTHING
    ),
    "data extended by hand": small(
        done(DATA, command=MORE), NOTHING, done(DATA, command=MORE), NOTHING, Run("extend --data +2GiB", "DOES_NOT_FIT")
    ),
    "metadata extended by hand": small(done(METADATA, command=MORE_METADATA), NOTHING),
    "a disk added by hand": small(
        done(VGEXTEND, DATA, command="extend --data +500MiB --add-device 1"),
        NOTHING,
        DESTROYED,
        disks=2,
        devices=(0,),
        data_size="600MiB",
    ),
    "a spare disk is taken": small(
        done(DATA, command=MORE),
        done(VGEXTEND, DATA, command="extend --data +500MiB"),
        NOTHING,
        disks=2,
        devices=(0,),
        spare_devices=(1,),
        data_size="600MiB",
    ),
    "extended while not active": small(Act("deactivate"), done("activate-pool", DATA, command=MORE), NOTHING),
    "nothing there to extend": Scenario((Run(MORE, "POOL_ABSENT"), APPLIED), config=SMALL),
}

SETTINGS = {
    "discards changed": small(Config({"discards": "nopassdown"}), done("set-discards"), NOTHING),
    "discards changed by hand": small(Act("discards by hand"), done("set-discards"), NOTHING),
    "discards to be ignored, while active": small(
        Config({"discards": "ignore"}),
        Run("apply", "SETTING_DIFFERS"),
        done("deactivate-pool", command="deactivate"),
        done("set-discards", "activate-pool"),
        NOTHING,
    ),
    "zeroing changed": small(
        Config({"zero_new_blocks": True}),
        done("set-zeroing"),
        NOTHING,
        Config({"zero_new_blocks": False}),
        done("set-zeroing"),
        NOTHING,
    ),
    "the answer when full changed": small(
        Config({"when_full": "error"}),
        done("set-when-full"),
        NOTHING,
        Config({"when_full": "queue"}),
        done("set-when-full"),
        NOTHING,
    ),
    "to dmeventd and back": small(
        Config(DMEVENTD),
        done(PROFILE, ATTACH),
        NOTHING,
        Config({"extend": {"monitor": "none"}}),
        done(ATTACH, PROFILE),
        NOTHING,
    ),
    "made for dmeventd, and destroyed with its profile": Scenario(
        (
            done(GROUP, PROFILE, POOL),
            NOTHING,
            done(DATA, command=MORE),
            NOTHING,
            done("deactivate-pool", *REMOVALS, PROFILE, command="destroy"),
            Run("destroy", "nothing"),
        ),
        config={**SMALL, **DMEVENTD},
    ),
    "the profile was edited by hand": Scenario(
        (done(GROUP, PROFILE, POOL), Act("edit profile"), done(PROFILE), NOTHING), config={**SMALL, **DMEVENTD}
    ),
    "the threshold changed": Scenario(
        (
            done(GROUP, PROFILE, POOL),
            Config({"extend": {"monitor": "dmeventd", "data_threshold_percent": 60}}),
            done(PROFILE, ATTACH),
            NOTHING,
        ),
        config={**SMALL, **DMEVENTD},
    ),
    "the spare was removed by hand": small(Act("remove spare"), done(METADATA), NOTHING, DESTROYED),
    "chunk size refused, and rebuilt": small(
        Config({"chunk_size": "64KiB"}), Run("apply", "SETTING_DIFFERS"), REBUILT, NOTHING
    ),
}

TAGS = {
    "the group has lost its tag": small(
        Act("untag"),
        Run("destroy", "POOL_FOREIGN"),
        Run("deactivate", "POOL_FOREIGN"),
        done("tag-pool"),
        NOTHING,
        DESTROYED,
    ),
    "the pool has lost its tag": small(Act("untag pool"), done("tag-pool"), NOTHING),
    "both have lost their tags": small(Act("untag"), Act("untag pool"), done("tag-pool", DATA, command=MORE), NOTHING),
    "lost tags, and killed": small(
        Act("untag"), Act("untag pool"), killed("before tag-pool"), Act("half tagged"), done("tag-pool"), NOTHING
    ),
    "adopted": Scenario(
        (
            Act("pool of others"),
            Run("apply", "POOL_FOREIGN"),
            done("tag-pool", command="adopt"),
            Run("adopt", "nothing"),
            NOTHING,
            DESTROYED,
        ),
        config=OTHERS,
    ),
    "adopted, and then made as configured": Scenario(
        (
            Act("pool of others"),
            done("tag-pool", command="adopt"),
            done("set-zeroing", METADATA, DATA),
            NOTHING,
        ),
        config={**SMALL, "chunk_size": "64KiB"},
    ),
    "adopted, with a chunk size that is refused": Scenario(
        (Act("pool of others"), done("tag-pool", command="adopt"), Run("apply", "SETTING_DIFFERS"), REBUILT, NOTHING),
        config=SMALL,
    ),
    "not adopted, because of other volumes": Scenario(
        (
            Act("pool of others"),
            Act("volume of others"),
            Run("adopt", "GROUP_HAS_OTHER_LVS"),
            Act("remove volume of others"),
            done("tag-pool", command="adopt"),
        ),
        config=OTHERS,
    ),
    "nothing there to adopt": refused("POOL_FOREIGN", "pool of others", **OTHERS),
}

CUT_SHORT = {
    "killed before data is extended": small(
        killed(f"before {DATA}", MORE), done(DATA, command=MORE), NOTHING, done(DATA, command=MORE)
    ),
    "killed after data is extended": small(
        killed(f"after {DATA}", MORE), Run(MORE, "nothing"), NOTHING, done(DATA, command=MORE)
    ),
    "killed before metadata is extended, and resumed": small(
        killed(f"before {METADATA}", MORE_METADATA), done(METADATA, command="resume"), Run("resume", "nothing"), NOTHING
    ),
    "killed after metadata is extended": small(
        killed(f"after {METADATA}", MORE_METADATA), Run(MORE_METADATA, "nothing"), NOTHING
    ),
    "killed before a disk is added": small(
        Config({"devices": (0, 1)}), killed(f"before {VGEXTEND}"), done(VGEXTEND, DATA), NOTHING, disks=2, devices=(0,)
    ),
    "killed after a disk is added": small(
        Config({"devices": (0, 1)}), killed(f"after {VGEXTEND}"), done(DATA), NOTHING, disks=2, devices=(0,)
    ),
    "killed when the disk to add has its label": small(
        Config({"devices": (0, 1)}),
        killed(f"before {VGEXTEND}"),
        Act("label", 1),
        done(VGEXTEND, DATA),
        NOTHING,
        disks=2,
        devices=(0,),
    ),
    "killed between metadata and data": small(
        Config({"metadata_size": "20MiB", "data_size": "70%VG"}), killed(f"after {METADATA}"), done(DATA), NOTHING
    ),
    "killed inside the extension of data, before LVM knew": cut_short(
        MORE, DATA, "half extended data, old", "resume-device", DATA
    ),
    "killed inside the extension of data, after LVM knew": cut_short(
        MORE, DATA, "half extended data, new", "refresh-pool"
    ),
    "killed inside the extension of metadata, before LVM knew": cut_short(
        MORE_METADATA, METADATA, "half extended metadata, old", "resume-device", METADATA
    ),
    "killed inside the extension of metadata, at the new spare": small(
        Act("remove spare"),
        killed(f"before {METADATA}", MORE_METADATA),
        Act("half extended metadata, spare"),
        done("remove-leftover", "refresh-pool", METADATA, command=MORE_METADATA),
        NOTHING,
        DESTROYED,
    ),
    "data half extended, and not wanted any more": small(
        killed(f"before {DATA}", MORE),
        Act("half extended data, old"),
        done("resume-device"),
        NOTHING,
        done("deactivate-pool", command="deactivate"),
        done("activate-pool"),
        NOTHING,
    ),
    "metadata half extended, and not wanted any more": small(
        killed(f"before {METADATA}", MORE_METADATA),
        Act("half extended metadata, old"),
        done("resume-device", METADATA),
        NOTHING,
        done("deactivate-pool", command="deactivate"),
        done("activate-pool"),
        NOTHING,
    ),
    "destroyed while half extended": small(
        killed(f"before {DATA}", MORE),
        Act("half extended data, new"),
        done("refresh-pool", "deactivate-pool", *REMOVALS, command="destroy"),
        APPLIED,
    ),
    "deactivated while half extended": small(
        killed(f"before {METADATA}", MORE_METADATA),
        Act("half extended metadata, old"),
        done("resume-device", METADATA, "deactivate-pool", command="deactivate"),
        done("activate-pool"),
        NOTHING,
    ),
    "killed inside a change of discards, before LVM knew": small(
        Config({"discards": "nopassdown"}),
        killed("before set-discards"),
        Act("half set discards, old"),
        done("resume-device", "set-discards"),
        NOTHING,
    ),
    "killed inside a change of discards, after LVM knew": small(
        Config({"discards": "nopassdown"}),
        killed("before set-discards"),
        Act("half set discards, new"),
        done(*("resume-device",) * 3, "refresh-pool"),
        NOTHING,
    ),
    "killed between group and profile": Scenario(
        (killed(f"after {GROUP}"), done(PROFILE, POOL), NOTHING), config={**SMALL, **DMEVENTD}
    ),
    "killed before the profile is attached": small(
        Config(DMEVENTD), killed(f"before {ATTACH}"), Act("half attached"), done(ATTACH), NOTHING
    ),
}

REBUILDS = {
    f"a rebuild killed after {step}": small(
        Config({"chunk_size": "64KiB"}), killed(f"after {step}", "rebuild"), done(*left, command="rebuild"), NOTHING
    )
    for step, left in {
        "deactivate-pool": (*REMOVALS, GROUP, POOL),
        "remove-thin-pool": (*REMOVALS[1:], GROUP, POOL),
        "remove-volume-group": (GROUP, POOL),
        "remove-physical-volumes": (GROUP, POOL),
        GROUP: (POOL,),
        POOL: (),
    }.items()
    if left
}

CLEANED = {
    "stale state is cleaned up": Scenario(
        (
            Act("stale engine state"),
            done("move-state-aside", command="clean"),
            Run("clean", "nothing"),
            done("delete-set-aside", command="clean --purge"),
            Run("clean --purge", "nothing"),
        ),
        docker=True,
    ),
    "a purge moves aside and the next one deletes": Scenario(
        (
            Act("stale engine state"),
            killed("after move-state-aside", "clean --purge"),
            Run("clean --purge", "nothing"),
            done("delete-set-aside", command="clean --purge"),
        ),
        docker=True,
    ),
    "a rebuild with Docker's state": Scenario(
        (
            done(GROUP, POOL, "write-engine-config"),
            Act("stale engine state"),
            done("deactivate-pool", *REMOVALS, "move-state-aside", GROUP, POOL, command="rebuild"),
            NOTHING,
        ),
        docker=True,
    ),
}

CHANGED: dict[str, Scenario] = {**ENLARGED, **SETTINGS, **TAGS, **CUT_SHORT, **REBUILDS, **CLEANED}

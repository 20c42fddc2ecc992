"""Scenarios: what happens to a host and what thinpoolmgr makes of it, the same on `sim` and on a real kernel.

A scenario is a list of acts, by somebody else, of changes of the configuration, and of runs. What each run must come
to stands here and in `changed`; that both hosts look the same after every line is for the runner to see.
"""

from __future__ import annotations

from changed import CHANGED
from own_setup import OWN_SETUP
from words import (
    APPLIED,
    DESTROYED,
    GROUP,
    NOTHING,
    POOL,
    REMOVALS,
    SMALL,
    Act,
    Run,
    Scenario,
    refused,
)

NEW_POOLS: dict[str, Scenario] = {
    "a blank disk": Scenario((APPLIED, NOTHING)),
    "two disks": Scenario((APPLIED, NOTHING, DESTROYED, Run("destroy", "nothing")), disks=2),
    "two disks, all that is free": Scenario((APPLIED, NOTHING), disks=2, config={"data_size": "100%FREE"}),
    "other sizes and features": Scenario(
        (APPLIED, NOTHING),
        config={
            "chunk_size": "64KiB",
            "data_size": "300MiB",
            "metadata_size": "10MiB",
            "zero_new_blocks": True,
            "discards": "ignore",
        },
    ),
    "discards that are not passed down": Scenario((APPLIED, NOTHING), config={"discards": "nopassdown"}),
    "names with hyphens": Scenario((APPLIED, NOTHING, DESTROYED), config={"volume_group": "a-b", "thin_pool": "c--d"}),
    "a full pool fails writes": Scenario(
        (Run("apply", steps=(GROUP, POOL, "set-when-full")), NOTHING), config={"when_full": "error"}
    ),
    "the kernel's answer was changed by hand": Scenario(
        (APPLIED, Act("error when full"), Run("apply", steps=("set-when-full",)), NOTHING)
    ),
    "ext4": refused("DISK_HAS_SIGNATURE", "ext4"),
    "xfs": refused("DISK_HAS_SIGNATURE", "xfs"),
    "swap": refused("DISK_HAS_SIGNATURE", "swap"),
    "gpt": refused("DISK_HAS_SIGNATURE", "gpt"),
    "a label without a group": refused("DISK_HAS_SIGNATURE", "label"),
    "mounted": refused("DISK_MOUNTED", "ext4", "mount", wipe_signatures=True),
    "swapped on": refused("DISK_IS_SWAP", "swap", "swapon", wipe_signatures=True),
    "held": refused("DISK_HELD", "hold"),
    "in another group": refused("DISK_IN_GROUP", "group of others", wipe_signatures=True),
    "missing": refused("DISK_MISSING", "vanish"),
    "does not fit": refused("DOES_NOT_FIT", data_size="2GiB"),
    "wiped": Scenario(
        (Act("ext4"), Run("apply", steps=("wipe-signatures", GROUP, POOL)), NOTHING), config={"wipe_signatures": True}
    ),
    "a label is wiped": Scenario(
        (Act("label"), Run("apply", steps=("wipe-signatures", GROUP, POOL)), NOTHING), config={"wipe_signatures": True}
    ),
    "destroyed and made again": Scenario((APPLIED, DESTROYED, APPLIED, NOTHING)),
    "destroyed, labels kept": Scenario(
        (
            APPLIED,
            Run("destroy --keep-devices", steps=("deactivate-pool", *REMOVALS[:2])),
            Run("apply", "DISK_HAS_SIGNATURE"),
        )
    ),
    "deactivated and activated": Scenario(
        (
            APPLIED,
            Run("deactivate", steps=("deactivate-pool",)),
            Run("deactivate", "nothing"),
            Run("activate", steps=("activate-pool",)),
            NOTHING,
        )
    ),
    "deactivated by hand": Scenario((APPLIED, Act("deactivate"), Run("apply", steps=("activate-pool",)), NOTHING)),
    "destroyed while inactive": Scenario((APPLIED, Act("deactivate"), Run("destroy", steps=REMOVALS))),
    "an activation cut short": Scenario(
        (
            APPLIED,
            Act("only components"),
            Run("apply", steps=("remove-dm-device", "remove-dm-device", "activate-pool")),
            NOTHING,
        )
    ),
    "a thin device of an engine": Scenario(
        (APPLIED, Act("thin device"), NOTHING, Run("destroy", steps=("remove-dm-device", "deactivate-pool", *REMOVALS)))
    ),
    "a pool of others": refused("POOL_FOREIGN", "pool of others"),
    "a volume of others in the group": Scenario(
        (
            APPLIED,
            Act("volume of others"),
            NOTHING,
            Run("destroy", "GROUP_HAS_OTHER_LVS"),
            Act("remove volume of others"),
            DESTROYED,
        ),
        config=SMALL,
    ),
    "killed before the group": Scenario((Run("apply", "killed", kill=f"before {GROUP}"), APPLIED, NOTHING)),
    "killed after the group": Scenario(
        (
            Run("apply", "killed", kill=f"after {GROUP}"),
            Run("apply", steps=(POOL,)),
            NOTHING,
        )
    ),
    "killed after the pool": Scenario((Run("apply", "killed", kill=f"after {POOL}"), NOTHING)),
    "killed after the first commit": Scenario(
        (
            Run("apply", "killed", kill=f"before {POOL}"),
            Act("first commit"),
            Run("apply", steps=("remove-leftover", POOL)),
            NOTHING,
        ),
        config=SMALL,
    ),
    "killed after the second commit": Scenario(
        (
            Run("apply", "killed", kill=f"before {POOL}"),
            Act("second commit"),
            Run("apply", steps=("remove-leftover", POOL)),
            NOTHING,
        ),
        config=SMALL,
    ),
    "killed after the third commit": Scenario(
        (
            Run("apply", "killed", kill=f"after {POOL}"),
            Act("deactivate"),
            Run("apply", steps=("activate-pool",)),
            NOTHING,
        )
    ),
    "the first commit of others": refused("GROUP_HAS_OTHER_LVS", "group like ours", "first commit", **SMALL),
    "killed before the labels went": Scenario(
        (
            APPLIED,
            Run("destroy", "killed", kill="before remove-physical-volumes"),
            Run("destroy", steps=("remove-physical-volumes",)),
        )
    ),
    "turned round while destroying": Scenario(
        (APPLIED, Run("destroy", "killed", kill="after remove-volume-group"), APPLIED, NOTHING)
    ),
    "docker, with nothing yet": Scenario(
        (Run("apply", steps=(GROUP, POOL, "write-engine-config")), NOTHING, DESTROYED), docker=True
    ),
    "docker, with state of a pool that is gone": Scenario(
        (
            Act("stale engine state"),
            Run("apply", steps=(GROUP, POOL, "move-state-aside", "write-engine-config")),
            NOTHING,
        ),
        docker=True,
    ),
    "docker, with state of a pool that is lost midway": Scenario(
        (
            Run("apply", steps=(GROUP, POOL, "write-engine-config")),
            Act("stale engine state"),
            Run("destroy", steps=("deactivate-pool", *REMOVALS, "move-state-aside")),
            Run("destroy", "nothing"),
        ),
        docker=True,
    ),
    "docker, with a configuration that is broken": Scenario(
        (Act("broken engine config"), Run("apply", "ENGINE_CONFIG_INVALID")), docker=True
    ),
    "lost by LVM": Scenario(
        (
            APPLIED,
            Act("lose labels"),
            Run("apply", "POOL_LOST"),
            Run("deactivate", steps=("remove-dm-device",) * 3),
            Run("apply", steps=(GROUP, POOL)),
        )
    ),
    "a disk vanishes and comes back": Scenario(
        (
            APPLIED,
            Run("deactivate"),
            Act("vanish", 1),
            Run("apply", "DISK_MISSING"),
            Run("destroy", "POOL_PARTIAL"),
            Run("activate", "POOL_PARTIAL"),
            Act("return", 1),
            NOTHING,
            DESTROYED,
        ),
        disks=2,
    ),
}
SCENARIOS: dict[str, Scenario] = {**NEW_POOLS, **CHANGED, **OWN_SETUP}

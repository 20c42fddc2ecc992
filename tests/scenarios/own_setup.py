"""Scenarios of what Docker's own set-up of a disk leaves when it is killed, and of groups without a pool."""

from __future__ import annotations

from words import DESTROYED, NOTHING, POOL, SMALL, Act, Run, Scenario, done, killed

REMOVE, SETUP_KILLED, FOREIGN = "remove-leftover", Act("half-made volumes"), Run("apply", "POOL_FOREIGN")
MAY_HOLD_DATA = Run("adopt", "VOLUME_MAY_HOLD_DATA")
OWN_SETUP: dict[str, Scenario] = {
    "a set-up of Docker's own, adopted": Scenario(
        (
            SETUP_KILLED,
            FOREIGN,
            done("tag-pool", REMOVE, REMOVE, command="adopt"),
            Run("adopt", "nothing"),
            done(POOL),
            NOTHING,
            DESTROYED,
        ),
        config=SMALL,
    ),
    "a set-up of Docker's own, adoption killed behind the tag": Scenario(
        (SETUP_KILLED, killed("after tag-pool", "adopt"), done(REMOVE, REMOVE, POOL), NOTHING), config=SMALL
    ),
    "a set-up of Docker's own, adoption killed between two removals": Scenario(
        (
            SETUP_KILLED,
            killed(f"after {REMOVE}", "adopt"),
            done(REMOVE, command="resume"),
            done(POOL),
            NOTHING,
        ),
        config=SMALL,
    ),
    "a set-up of Docker's own, used for something else": Scenario(
        (SETUP_KILLED, Act("ext4 on a volume"), MAY_HOLD_DATA, FOREIGN), config=SMALL
    ),
    "a set-up of Docker's own, used after the tag": Scenario(
        (
            SETUP_KILLED,
            killed("after tag-pool", "adopt"),
            Act("ext4 on a volume"),
            MAY_HOLD_DATA,
            Run("apply", "VOLUME_MAY_HOLD_DATA"),
        ),
        config=SMALL,
    ),
    "a set-up of Docker's own, not active": Scenario((SETUP_KILLED, Act("deactivate"), MAY_HOLD_DATA), config=SMALL),
    "an empty group, adopted": Scenario(
        (Act("empty group"), FOREIGN, done("tag-pool", command="adopt"), done(POOL), NOTHING, DESTROYED), config=SMALL
    ),
}

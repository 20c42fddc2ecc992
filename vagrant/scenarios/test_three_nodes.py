"""Three nodes get the same description; one of them has a disk that is somebody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from story import ON_POOL, POOL, pool_of, storage, want

if TYPE_CHECKING:
    from machine import Machine


def test_three_nodes_converge_and_one_refuses_without_harm(three: list[Machine]) -> None:
    """Two become what was described; the third one's disk has a file system, which is still there afterwards."""
    *good, wrong = three
    wrong(f"mkfs.ext4 -q {POOL} && mount {POOL} /mnt && echo precious >/mnt/file && umount /mnt")
    before = wrong(f"sha256sum <{POOL}").out

    for machine in three:
        want(machine, "TPM-POOL")
    answers = {machine.name: machine("thinpoolmgr apply --yes", ok=False) for machine in three}

    for machine in good:
        assert answers[machine.name].code == 0, answers[machine.name].err
        machine("systemctl start docker")
        assert storage(machine) == ON_POOL
        assert (pool_of(machine)["state"], machine("thinpoolmgr plan").code) == ("healthy", 0)
    refused = answers[wrong.name]
    assert (refused.code, "ext4" in refused.err) == (3, True)
    assert wrong(f"sha256sum <{POOL}").out == before
    assert wrong("systemctl start docker", ok=False).code != 0
    wrong(f"mount -o ro {POOL} /mnt && grep precious /mnt/file && umount /mnt")

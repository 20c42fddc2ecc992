"""The in-memory host: what a real one does with each step, as pure functions of frozen snapshots, and its faults.

- `consistency`: why no host can look like a snapshot.
- `parts`: volume groups, logical volumes and device-mapper devices as LVM and the kernel make them.
- `steps`: what a snapshot becomes when a step is carried out.
- `events`: what happens to a host besides: disks vanish, power goes, people change things by hand.
- `faults`: what may go wrong with a step.
- `host`: the host with the two methods that the run cycle knows.

The same scenarios run on it and on a real kernel, and must agree: tests/scenarios.
"""

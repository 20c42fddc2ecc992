"""The lab: loop disks, and a throw-away kernel with device-mapper."""

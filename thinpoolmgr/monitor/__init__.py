"""The daemon that keeps pools from filling up: one thread a pool, and one that listens and tells."""

"""Provision and keep LVM thin pools for container engines."""

__version__ = "0.1.0"

"""Prometheus: the document, and who serves it."""

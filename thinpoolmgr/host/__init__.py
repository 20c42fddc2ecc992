"""The thin shell around the host: one outside thing a file."""

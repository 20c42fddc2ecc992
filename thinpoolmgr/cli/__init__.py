"""The command line: one file for each family of commands, and `render`, the only one that prints."""

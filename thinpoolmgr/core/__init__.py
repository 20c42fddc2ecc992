"""Pure functions of frozen values: from what was observed and what is wanted to a plan."""

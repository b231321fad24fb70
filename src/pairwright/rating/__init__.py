"""The score stage as it runs: entries of a recipe into raters, raters into calls, calls stored one by one."""

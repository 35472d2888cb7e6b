"""Strategies x seeds, trained alike, evaluated on the same trials, in one table with intervals and a verdict."""

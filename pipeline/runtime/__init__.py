"""Runs stages: supervised processes, state with exactly-once effect, standby, metrics and clocks."""

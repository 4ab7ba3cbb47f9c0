"""Producers of telemetry: this machine, and replays."""

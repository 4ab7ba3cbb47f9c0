"""Simulated telemetry, machines and markets."""

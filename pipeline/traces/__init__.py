"""Trace files, and windows of time in them."""

"""Providers that carry out commands: the interface, and the local simulated cloud."""

"""The committed example from which the demo starts."""

"""Nodes that many apps share: packing, what it loses, how apps depend on each other, and what they need together."""

"""The clouds that a plan can be actuated on, a module or folder each."""

"""How fast the parts are, each beside a baseline or a limit in the same run."""

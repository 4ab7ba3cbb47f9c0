"""Stage 1: raw records to tick frames."""

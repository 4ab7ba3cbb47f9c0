"""Stage 1, ingest: raw records to tick frames."""

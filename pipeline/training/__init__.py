"""The behaviour model fitted and scored on trace files."""

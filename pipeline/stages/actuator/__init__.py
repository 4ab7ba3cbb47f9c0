"""Stage 5: commands to provider calls, results and observations."""

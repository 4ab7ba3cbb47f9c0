"""Stage 2, profiler: tick frames to a forecast for each user."""

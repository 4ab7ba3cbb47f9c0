"""Stage 2: tick frames to a forecast for each user."""

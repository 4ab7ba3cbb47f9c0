"""Stage 3, simulator: forecasts to joint scenarios of each app's demand."""

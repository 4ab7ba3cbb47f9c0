"""Stage 3: forecasts to joint scenarios of each app's demand."""

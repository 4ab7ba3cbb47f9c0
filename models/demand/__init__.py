"""Joint scenarios of an app's demand."""

"""What came of forecasts, promises and policies."""

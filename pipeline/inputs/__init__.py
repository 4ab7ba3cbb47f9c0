"""Side inputs: versioned policies, prices, calendar and models."""

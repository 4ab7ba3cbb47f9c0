"""Per-user forecasts: the network, its training and its online corrections."""

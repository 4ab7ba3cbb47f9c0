"""The cheapest mix of offers that serves a demand with a stated confidence."""

"""What offers are really like: posteriors of start-up, failure, interruption and outage."""

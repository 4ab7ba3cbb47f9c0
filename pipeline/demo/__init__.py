"""One replayed installation, from an empty Kafka to its summary."""

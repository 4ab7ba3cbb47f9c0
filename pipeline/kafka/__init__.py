"""Talking to Kafka: topics, connections, one producer, readers, and the embedded broker."""

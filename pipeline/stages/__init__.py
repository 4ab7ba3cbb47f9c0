"""Stages of the stream, one folder each: ingest, profiler, simulator, allocator, actuator."""

"""The stream, a folder a stage: ingest, profiler, simulator, allocator, actuator."""

"""What differs between model families: pipeline, layers, schedule, loading."""

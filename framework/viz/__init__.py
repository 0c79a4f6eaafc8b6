"""Pictures of results: the comparison grid, flows, matches."""

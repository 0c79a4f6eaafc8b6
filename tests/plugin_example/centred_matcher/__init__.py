"""A plug-in for DreamMatcher: one matcher."""

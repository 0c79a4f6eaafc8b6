"""Matchers: pure tensor code, one matcher a file. Each file registers itself."""

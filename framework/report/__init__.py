"""Report of a run: one self-contained HTML page."""


def write_report(folder, found):
    """Placeholder."""

"""Report of a run: one self-contained HTML page."""

from framework.report.page import write_report

__all__ = ["write_report"]

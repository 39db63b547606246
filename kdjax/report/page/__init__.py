"""The report of a run, and of several side by side: one HTML file that opens offline."""

from kdjax.report.page.comparison import write as write_comparison
from kdjax.report.page.runs import Run, read
from kdjax.report.page.single import write

__all__ = ["Run", "read", "write", "write_comparison"]

"""The report of a run, or a comparison of several runs, as a self-contained HTML file."""

from kdjax.report.page.comparison import write as write_comparison
from kdjax.report.page.comparison import write_sweep
from kdjax.report.page.runs import Run, read
from kdjax.report.page.single import write

__all__ = ["COMPARISON", "Run", "read", "write", "write_comparison", "write_sweep"]

COMPARISON = "comparison.html"  # name of the comparison page in a workdir

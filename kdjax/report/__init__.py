"""Results of a run as tables on the terminal and as an HTML page."""

"""The report: leaderboards, analyses, comparisons and the HTML page."""

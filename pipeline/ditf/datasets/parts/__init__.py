"""Parts that data sets share."""

"""The explorer: a web page over the cached features and results of a project."""

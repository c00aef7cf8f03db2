"""One self-contained HTML page of one or several runs, or of a sweep."""

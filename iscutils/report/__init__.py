"""The report (notebook 08): one HTML file, and the browser of matches in it."""

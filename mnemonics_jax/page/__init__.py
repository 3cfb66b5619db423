"""The report as one HTML page, a file for each kind of section."""

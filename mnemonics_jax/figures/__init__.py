"""Figures, each a function from arrays and names to a Matplotlib figure."""

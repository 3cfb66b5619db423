"""Figures, drawn by matplotlib: one file a kind."""

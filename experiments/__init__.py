"""Studies of what learned exemplars bring; README.md has their commands."""

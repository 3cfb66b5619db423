"""Devices, processes, files and text; nothing here knows about learning."""

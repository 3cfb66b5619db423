"""What knows nothing of learning: devices, processes, files, words."""

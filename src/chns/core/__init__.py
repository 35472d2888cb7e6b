"""What every room stands on: errors, files, array types, processes, objects by name."""

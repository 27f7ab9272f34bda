"""What developers run beside the package: measurements, and files made once."""

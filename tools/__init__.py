"""Programs for developers beside the package: measurements, and files made once."""

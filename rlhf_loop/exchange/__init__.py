"""Exchange of ratings: every file format, datasets, and feedback one piece at a time; bulk scoring of candidates."""

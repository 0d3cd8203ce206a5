"""A run's place on disk: its folder, files, locks and logs, and the records of finished runs."""

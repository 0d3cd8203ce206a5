"""Raw data: where it comes from, one reader a format, and what readers share."""

"""Raw files -> prepared folder -> in-memory dataset -> training batches."""

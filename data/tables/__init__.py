"""Tables with a row a user: embeddings of any recommender, labels, and what a run keeps.

user_table     vectors and ids, and what is refused of them
formats        a reader and a writer a file format
files          the table that is meant of a file, and the same file with it edited
labels         users' labels from a file, joined to a table by id, or by row
manifest       what stands beside an embedding that is handed over
shards         what a shard of a table is that is past the memory: in and out in blocks of rows
shard_formats  the formats of shards, and folders of them
shard_labels   their users' labels, joined by id, or in order
run_files      what main.py writes into a run folder and attack.py reads back
"""

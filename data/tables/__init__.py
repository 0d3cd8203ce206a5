"""Tables with a row a user: embeddings of any recommender, labels, and what a run keeps.

user_table  vectors and ids, and what is refused of them
formats     a reader and a writer a file format
files       the table that is meant of a file, and the same file with it edited
labels      users' labels from a file, joined to a table by id, or by row
run_files   what main.py writes into a run folder and attack.py reads back
"""

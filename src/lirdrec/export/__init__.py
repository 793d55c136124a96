"""What leaves lirdrec: lists for every user, vectors for other search engines, the item encoder for other runtimes."""

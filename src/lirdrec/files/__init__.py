"""Write files and folders safely: atomic writes, locks, manifests, resumable shards, tables written in pieces."""

"""Files and folders: atomic writes, locks, manifests, shards, tables written in pieces."""

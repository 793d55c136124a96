"""Export vectors to other search engines and the item encoder to other runtimes."""

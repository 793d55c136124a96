"""Training and serving for people: `fit`, `Recommender`, run folders, new items and users, explanations."""

"""Train and use recommenders: `fit`, `Recommender`, run folders, new items and users, explanations."""

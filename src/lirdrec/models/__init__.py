"""The models, one in each file. A model is built from graphs, features and an immutable config alone."""

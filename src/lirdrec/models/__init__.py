"""The models, each in one file with its variants; a model is built from `ModelInputs` and an immutable config."""

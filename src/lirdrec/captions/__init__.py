"""Image captions by multimodal language models."""

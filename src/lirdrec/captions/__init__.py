"""Pictures into words by a multimodal language model."""

"""Export vectors for other search engines, and the item encoder for other runtimes (ONNX)."""

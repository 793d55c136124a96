"""Turn texts, images, sounds and videos of items into feature matrices, by encoders and resumable jobs."""

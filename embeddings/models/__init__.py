"""Text to vector: what an embedding model is, which one a name stands for, one file a provider."""

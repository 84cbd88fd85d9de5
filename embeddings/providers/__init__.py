"""Built-in embedding models, one file a provider. None imports its optional package by itself."""

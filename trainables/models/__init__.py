"""Base models: their folders and files, families, loading, and images from them."""

"""Find and load a model by name, and carve a small one out of it."""

"""Built-in plugins of instsearch."""

"""A browser demo of an exported model: one HTML page that contains model and runtime."""

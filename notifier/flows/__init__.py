"""The stories, one file each, read from top to bottom."""

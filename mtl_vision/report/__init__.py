"""Pages about runs: they read run folders, never models."""

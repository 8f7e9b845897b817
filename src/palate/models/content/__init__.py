"""Models that read item content."""

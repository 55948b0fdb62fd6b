"""Reports on finished runs, from their result files alone. No torch."""

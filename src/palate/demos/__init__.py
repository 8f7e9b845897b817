"""`palate demo`: practical examples from data to recommendations; see `movielens` and, for new films, `content`."""

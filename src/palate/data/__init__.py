"""From raw tables to arrays: reading, ids, splits, named data sets."""

"""Linear models with closed-form solutions."""

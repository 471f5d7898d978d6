"""A file to task vectors, models and merges: the walk back."""

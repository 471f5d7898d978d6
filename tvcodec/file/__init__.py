"""Bytes, which know no tensors: the container, its records, and files made of files."""

"""Numbers, which know no bytes: tensors in, tensors out."""

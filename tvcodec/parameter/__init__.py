"""One parameter, where maths meets bytes: the parts that stand for a task vector, and recipes."""

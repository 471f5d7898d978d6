"""Several task vectors -> one: weights, and the methods that use them; one parameter at a time."""

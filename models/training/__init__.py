"""Training: the loop over epochs, the step, its precision, and steps recorded for a GPU."""

"""Fine-tuning methods, one file each: the loss and the optimum side by side (see `contract`)."""

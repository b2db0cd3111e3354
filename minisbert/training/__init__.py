"""Training: losses, gradients in bounded memory, the siamese step and the loop around it."""

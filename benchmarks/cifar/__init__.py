"""The paper's experiment on CIFAR-10: the data, a network trained on it, and the comparison."""

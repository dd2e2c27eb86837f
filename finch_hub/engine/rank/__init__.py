"""The rank of each module: given, divided among the modules by the data, or found after training."""

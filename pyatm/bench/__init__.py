"""What pyatm costs, beside the least that any task manager has to write, in one run."""

"""What is true: values, states, errors, settings, inventory, and the store."""

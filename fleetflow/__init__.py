"""The command line: what people type; it starts and stops the local stack."""

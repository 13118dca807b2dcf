"""The agentless executor: SSH by paramiko."""

"""What a hospital owns: its identity, policy, plans and data sets."""

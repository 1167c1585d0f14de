"""What the command `simulate` and `trainmaster.simulate(...)` share: inputs, the runs, the files they leave."""

"""What a person runs: nets, weights, evaluation, pictures and checks."""

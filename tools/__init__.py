"""Command-line tools: nets, weights, training, evaluation, figures and checks."""

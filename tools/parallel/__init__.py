"""Training by several processes: the launch, one rank, and what joins them."""

"""What we are compared with: autoscalers, forecasters and a pairwise purchase."""

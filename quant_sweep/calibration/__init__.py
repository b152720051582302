"""Graph and images -> a summary of every tensor, and from summaries the ranges that observers choose."""

"""Real clients of other people's rerank servers, set on ours."""

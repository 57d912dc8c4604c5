"""Evidence from what users have: their environments, their policies and their recorded episodes."""

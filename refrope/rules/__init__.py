"""PosGen, looked into."""

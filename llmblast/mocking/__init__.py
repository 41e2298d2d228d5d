"""The built-in mock provider: an OpenAI-compatible server with limits and faults, for demos and tests."""

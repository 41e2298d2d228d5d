"""llmblast sends a JSONL file of prompts to LLM endpoints as fast as their limits allow."""

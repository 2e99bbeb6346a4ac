"""How it speaks: sampling from the logits, and the engine that decodes."""

"""What learns: the configuration, the decoder, the tokenizer, and the files that carry them."""

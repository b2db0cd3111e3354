"""Mining: paraphrases, translations, hard negatives and clusters."""

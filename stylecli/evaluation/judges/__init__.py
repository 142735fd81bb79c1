"""Large models that look at a picture, read words, and say what they think of it."""

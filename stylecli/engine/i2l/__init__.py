"""i2L at work: data, training, prediction."""

"""Where things are in a picture: words, points and boxes in, soft masks out."""

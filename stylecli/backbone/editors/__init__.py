"""Models that edit a picture by instruction, each behind `base.Editor`."""

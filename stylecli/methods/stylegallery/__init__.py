"""StyleGallery: regions of a picture take the style of the regions they match (CVPR 2026)."""

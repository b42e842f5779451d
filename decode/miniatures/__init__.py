"""How the small foundation models in `tiny/` were trained on drawn scenes."""

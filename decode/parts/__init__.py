"""Parts of the signal that are decoded on their own: one file per way of parting."""
